//! Where the plugin finds the agent: `socket` and `agentWait` of the configuration. The plugin
//! reads nothing else of it.

use std::time::Duration;

use super::{CniError, Code, config::Config, wire};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub socket: String,
    /// How long the agent may be away before a call fails.
    pub wait: Duration,
}

impl Endpoint {
    /// How long a restart of the agent may take unless the configuration says otherwise.
    pub const WAIT: Duration = Duration::from_secs(20);
    /// Runtimes themselves give up after two to four minutes.
    pub const WAIT_MAX: Duration = Duration::from_mins(5);
    /// `sun_path` has 108 bytes, the last of them zero (`linux/un.h`).
    pub const SOCKET_MAX: usize = 107;

    pub fn parse(config: &str) -> Result<Self, CniError> {
        let config = Config::read(config)?;
        let invalid =
            |what| CniError::new(Code::InvalidConfig, "invalid network configuration", what);
        let socket = config.get("socket");
        let path = socket.map_or(Some(wire::SOCKET), |socket| socket.as_str());
        let path = path.filter(|path| path.starts_with('/') && path.len() <= Self::SOCKET_MAX);
        let path = path.ok_or_else(|| {
            let given = socket.unwrap_or_default();
            let rule = format!("an absolute path of at most {} bytes", Self::SOCKET_MAX);
            invalid(format!("`socket` {given}: {rule}, where `weft agent` listens"))
        })?;
        let wait = match config.get("agentWait") {
            None => Self::WAIT,
            Some(wait) => {
                wait.as_u64().map(Duration::from_secs).filter(|w| *w <= Self::WAIT_MAX).ok_or_else(
                    || {
                        invalid(format!(
                            "`agentWait` {wait}: whole seconds, 0 to {}",
                            Self::WAIT_MAX.as_secs()
                        ))
                    },
                )?
            }
        };
        Ok(Self { socket: path.to_owned(), wait })
    }
}
