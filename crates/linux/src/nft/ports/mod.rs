//! Ports of the node that lead to pods: a table of its own, whose rules are always the same and look
//! into maps and sets, of which each element is an object. Written so, one pod's ports cost the same
//! however many there are, and calls for two pods do not get into each other's way.

mod frame;
mod sets;

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use weft_core::{
    mark,
    ports::{Client, Door},
    state::Object,
};

use super::{
    DELTABLE, Error, INET, NEWTABLE, NLM_F_CREATE, Nft, POISONED, TABLE_FLAGS, TABLE_NAME, header,
};
use crate::wire::Batch;
use frame::{frame, framed};
use sets::{DELSETELEM, NEWSETELEM, Set, door_key, element, elements, hidden_key, octets};

impl Nft {
    pub(crate) fn map_port(&self, door: &Door, to: SocketAddr) -> Result<(), Error> {
        let (set, key) = door_key(door);
        let data = [&octets(to.ip())[..], &to.port().to_be_bytes(), &[0, 0]].concat();
        self.put_element(set, &key, Some(&data))
    }

    pub(crate) fn hide(&self, addr: IpAddr, from: Client) -> Result<(), Error> {
        let (set, key) = hidden_key(addr, from);
        self.put_element(set, &key, None)
    }

    pub(crate) fn unmap_port(&self, door: &Door) -> Result<(), Error> {
        let (set, key) = door_key(door);
        self.take_element(set, &key)
    }

    pub(crate) fn show(&self, addr: IpAddr, from: Client) -> Result<(), Error> {
        let (set, key) = hidden_key(addr, from);
        self.take_element(set, &key)
    }

    fn put_element(&self, set: &Set, key: &[u8], data: Option<&[u8]>) -> Result<(), Error> {
        let _turn = self.elements.lock().expect(POISONED);
        if !framed(&mut self.socket.lock().expect(POISONED))? {
            self.write(mark::PORTS, |batch| {
                table(batch, NEWTABLE, NLM_F_CREATE);
                table(batch, DELTABLE, 0);
                frame(batch);
            })?;
        }
        let add = |batch: &mut Batch| element(batch, NEWSETELEM, NLM_F_CREATE, (set, key, data));
        self.write(mark::PORTS, add).or_else(|error| {
            let Error::Write { error: why, .. } = &error else { return Err(error) };
            if !matches!(why.raw_os_error(), Some(libc::EEXIST | libc::EBUSY)) {
                return Err(error);
            }
            // It leads elsewhere.
            self.write(mark::PORTS, |batch| {
                element(batch, DELSETELEM, 0, (set, key, None));
                add(batch);
            })
        })
    }

    /// With the last element the table goes.
    fn take_element(&self, set: &Set, key: &[u8]) -> Result<(), Error> {
        let _turn = self.elements.lock().expect(POISONED);
        let gone = self.write(mark::PORTS, |batch| element(batch, DELSETELEM, 0, (set, key, None)));
        match gone {
            Err(Error::Write { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {}
            gone => gone?,
        }
        let left = elements(&mut self.socket.lock().expect(POISONED));
        match left {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            left if !left.as_ref().is_ok_and(Vec::is_empty) => {
                return left.map(drop).map_err(read("sets"));
            }
            _ => {}
        }
        self.remove_ports()
    }

    /// The whole table, whatever somebody has made of it.
    pub(crate) fn remove_ports(&self) -> Result<(), Error> {
        self.write(mark::PORTS, |batch| {
            table(batch, NEWTABLE, NLM_F_CREATE);
            table(batch, DELTABLE, 0);
        })
    }

    /// What is in force. A table that is not as we write it has nothing.
    pub(crate) fn ports(&self) -> Result<Vec<Object>, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        if !framed(&mut socket)? {
            return Ok(Vec::new());
        }
        elements(&mut socket).map_err(read("sets"))
    }
}

fn read(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Read { what, error }
}

fn table(batch: &mut Batch, kind: u16, flags: u16) {
    batch.begin(kind, flags, &header(INET)).attr_str(TABLE_NAME, mark::PORTS);
    if kind == NEWTABLE {
        batch.attr_be32(TABLE_FLAGS, 0);
    }
    batch.end();
}
