//! What the configuration says about connecting: checked, read from its files, made into options.

use std::{fs, io, path::Path, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::{EtcdConfig, OPERATION_MAX};
use crate::store::Tls;

/// A connection with work on it that is silent so long is asked for a sign. Etcd takes more
/// frequent asking for an attack (`--grpc-keepalive-min-time`), and any while there is no work.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// And is gone if there is none.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(super) struct ReadError {
    what: String,
    error: io::Error,
}

/// Contradictions, said before anything is tried.
pub(super) fn check(config: &EtcdConfig) -> Result<(), String> {
    if config.endpoints.is_empty() {
        return Err("no endpoint is given: set store.etcd.endpoints".into());
    }
    for endpoint in &config.endpoints {
        let shown = shown(endpoint);
        if endpoint.contains('@') {
            return Err(format!(
                "endpoint {shown} has a login in it: set store.etcd.user and password instead"
            ));
        }
        if endpoint.starts_with("https://") && config.tls.is_none() {
            return Err(format!(
                "endpoint {shown} is https: set store.etcd.tls.ca to the file of its CA"
            ));
        }
        if endpoint.starts_with("http://") && config.tls.is_some() {
            return Err(format!(
                "endpoint {shown} is http, but store.etcd.tls is set: write https://"
            ));
        }
    }
    if let Some(Tls { cert, key, .. }) = &config.tls
        && cert.is_some() != key.is_some()
    {
        return Err("store.etcd.tls has one of cert and key: a client needs both".into());
    }
    let password = config.password.is_some() || config.password_file.is_some();
    match &config.user {
        Some(user) if !password => {
            Err(format!("user {user} has no password: set store.etcd.password or passwordFile"))
        }
        None if password => Err("a password is given, but no user: set store.etcd.user".into()),
        _ => Ok(()),
    }
}

/// An endpoint as it may be said: without a login.
pub(super) fn shown(endpoint: &str) -> String {
    match endpoint.rsplit_once('@') {
        Some((login, host)) => match login.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{host}"),
            None => format!("…@{host}"),
        },
        None => endpoint.to_owned(),
    }
}

pub(super) fn user(config: &EtcdConfig) -> Result<Option<(String, String)>, ReadError> {
    let Some(user) = config.user.clone() else { return Ok(None) };
    let password = match (&config.password, &config.password_file) {
        (Some(password), _) => password.clone(),
        (None, Some(file)) => {
            let text = fs::read_to_string(file).map_err(|error| failed("password", file, error))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, None) => String::new(),
    };
    Ok(Some((user, password)))
}

/// All but the login.
pub(super) fn read(config: &EtcdConfig) -> Result<ConnectOptions, ReadError> {
    user(config)?;
    let options = ConnectOptions::new()
        .with_connect_timeout(OPERATION_MAX)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_ANSWER)
        .with_keep_alive_while_idle(false)
        // A member that has lost the others would serve a watch on which nothing ever comes.
        .with_require_leader(true);
    let Some(tls) = &config.tls else { return Ok(options) };
    let ca = pem("CA certificate", &tls.ca, "CERTIFICATE")?;
    let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        let cert = pem("client's certificate", cert, "CERTIFICATE")?;
        with = with.identity(Identity::from_pem(cert, pem("client's key", key, "PRIVATE KEY")?));
    }
    if let Some(domain) = &tls.domain {
        with = with.domain_name(domain);
    }
    Ok(options.with_tls(with))
}

/// What was being done when a connection could not even be made ready.
pub(super) fn made_of(config: &EtcdConfig) -> String {
    let files =
        config.tls.iter().flat_map(|tls| [Some(&tls.ca), tls.cert.as_ref(), tls.key.as_ref()]);
    let files: Vec<_> = files.flatten().map(|file| file.display().to_string()).collect();
    if files.is_empty() { "connect".into() } else { format!("connect with {}", files.join(", ")) }
}

fn pem(of: &str, file: &Path, kind: &str) -> Result<Vec<u8>, ReadError> {
    let text = fs::read(file).map_err(|error| failed(of, file, error))?;
    let is = String::from_utf8_lossy(&text).lines().any(|line| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"))
    });
    let none = || io::Error::new(io::ErrorKind::InvalidData, format!("no PEM {kind} in it"));
    if is { Ok(text) } else { Err(failed(of, file, none())) }
}

fn failed(of: &str, file: &Path, error: io::Error) -> ReadError {
    ReadError { what: format!("read the {of} {}", file.display()), error }
}
