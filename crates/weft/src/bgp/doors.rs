//! Where neighbours connect to: a listener per family, which knows the password of each.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use weft_bgp::{config::Config, wire::PORT};
use weft_linux::tcp;

/// A port that another program has, or whatever else fails, is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections that are accepted before others are served.
const BURST: usize = 32;

pub(super) struct Doors {
    both: [Door; 2],
    /// Passwords by neighbour, as they should be.
    passwords: BTreeMap<IpAddr, String>,
    port: u16,
}

struct Door {
    ipv6: bool,
    wanted: bool,
    listener: Option<TcpListener>,
    /// Not tried before this.
    again: Instant,
    why: Option<String>,
    /// Neighbours whose password could not be set.
    unsigned: BTreeMap<IpAddr, String>,
}

impl Doors {
    pub(super) fn new() -> Self {
        let door = |ipv6| Door {
            ipv6,
            wanted: false,
            listener: None,
            again: Instant::now(),
            why: None,
            unsigned: BTreeMap::new(),
        };
        Self { both: [door(false), door(true)], passwords: BTreeMap::new(), port: PORT }
    }

    /// Before the speaker hears of it, so that whoever connects then finds the right password.
    /// Connections that stand don't care where others are taken from now on.
    pub(super) fn configure(&mut self, config: &Config, port: u16) {
        let moves = std::mem::replace(&mut self.port, port) != port;
        let named = config.neighbours.iter();
        let now: BTreeMap<IpAddr, String> =
            named.filter_map(|(peer, of)| Some((*peer, of.password.clone()?))).collect();
        let before = std::mem::replace(&mut self.passwords, now);
        for door in &mut self.both {
            if moves {
                (door.listener, door.why, door.again) = (None, None, Instant::now());
            }
            door.wanted = config.neighbours.keys().any(|peer| peer.is_ipv6() == door.ipv6);
            let gone = before.keys().filter(|peer| !self.passwords.contains_key(peer));
            let changed = self.passwords.iter().filter(|(peer, now)| before.get(peer) != Some(now));
            gone.for_each(|peer| door.sign(*peer, None));
            changed.for_each(|(peer, password)| door.sign(*peer, Some(password)));
        }
        self.tend();
    }

    /// Opens what is to be open.
    pub(super) fn tend(&mut self) {
        for door in &mut self.both {
            if !door.wanted {
                (door.listener, door.why) = (None, None);
            } else if door.listener.is_none() && Instant::now() >= door.again {
                door.open(self.port, &self.passwords);
            }
        }
    }

    /// When `tend` is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let shut = self.both.iter().filter(|door| door.wanted && door.listener.is_none());
        shut.map(|door| door.again).min()
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.both.iter().filter_map(|door| door.listener.as_ref())
    }

    pub(super) fn accept(&mut self) -> Vec<(TcpStream, SocketAddr)> {
        let mut come = Vec::new();
        for door in &mut self.both {
            for _ in 0..BURST {
                let Some(listener) = &door.listener else { break };
                match tcp::accept(listener) {
                    Ok(Some(one)) => come.push(one),
                    Ok(None) => break,
                    Err(error) => door.shut("accept a connection to", self.port, &error),
                }
            }
        }
        come
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.both.iter().flat_map(|door| door.why.iter().chain(door.unsigned.values()).cloned())
    }
}

impl Door {
    fn open(&mut self, port: u16, passwords: &BTreeMap<IpAddr, String>) {
        match tcp::listen(self.ipv6, port) {
            Ok(listener) => (self.listener, self.why) = (Some(listener), None),
            Err(error) => return self.shut("listen on", port, &error),
        }
        self.unsigned.clear();
        passwords.iter().for_each(|(peer, password)| self.sign(*peer, Some(password)));
    }

    fn shut(&mut self, what: &str, port: u16, error: &io::Error) {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        let who = if error.kind() == io::ErrorKind::AddrInUse {
            "; another BGP daemon on this node has it: stop it, have it listen elsewhere, or say another \
             `port` (`weft bgp apply`)"
        } else {
            ""
        };
        let why = format!(
            "{what} TCP port {port} ({family}): {error}{who}; neighbours that connect are not heard, \
             tried again each second"
        );
        (self.listener, self.why, self.again) = (None, Some(why), Instant::now() + AGAIN);
    }

    fn sign(&mut self, peer: IpAddr, password: Option<&str>) {
        self.unsigned.remove(&peer);
        let Some(listener) = self.listener.as_ref().filter(|_| peer.is_ipv6() == self.ipv6) else {
            return;
        };
        if let Err(error) = tcp::sign(listener, peer, password) {
            self.unsigned.insert(peer, format!("set the password of neighbour {peer}: {error}"));
        }
    }
}
