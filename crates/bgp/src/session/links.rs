//! Connections by their numbers: whose each is, what is to be done with it, and the last words of one
//! that is being closed.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use crate::{Action, Conn, config};

/// Connections whose last words nobody has fetched are remembered up to this number.
const LEAVING_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Links {
    last: u64,
    owners: BTreeMap<Conn, IpAddr>,
    leaving: BTreeMap<Conn, Vec<u8>>,
    actions: VecDeque<Action>,
}

impl Links {
    pub fn owner(&self, conn: Conn) -> Option<IpAddr> {
        self.owners.get(&conn).copied()
    }

    pub fn connect(&mut self, to: IpAddr, config: &config::Neighbour) -> Conn {
        let conn = self.accept(to);
        self.actions.push_back(Action::Connect {
            conn,
            from: config.local_addr,
            to: SocketAddr::new(to, config.port),
            ttl: config.ttl,
            password: config.password.clone(),
        });
        conn
    }

    pub fn accept(&mut self, of: IpAddr) -> Conn {
        self.last += 1;
        let conn = Conn(self.last);
        self.owners.insert(conn, of);
        conn
    }

    pub fn close(&mut self, conn: Conn, last_words: Vec<u8>) {
        self.owners.remove(&conn);
        if !last_words.is_empty() {
            self.leaving.insert(conn, last_words);
        }
        if self.leaving.len() > LEAVING_MAX {
            self.leaving.pop_first();
        }
        self.actions.push_back(Action::Close(conn));
    }

    /// It has ended by itself: nothing is to be done.
    pub fn ended(&mut self, conn: Conn) {
        self.owners.remove(&conn);
        self.leaving.remove(&conn);
    }

    pub fn last_words(&mut self, conn: Conn) -> Option<Vec<u8>> {
        self.leaving.remove(&conn)
    }

    pub fn has_last_words(&self, conn: Conn) -> bool {
        self.leaving.contains_key(&conn)
    }

    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
