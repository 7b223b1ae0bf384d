//! Frames that a NIC does not take in: those whose sender is a pod of this very node that is to be
//! kept apart from its siblings. A chain and a set of MAC addresses per NIC, in a table of family
//! netdev, which sees a frame before the NIC's children do (`__netif_receive_skb_core`).

use std::{collections::BTreeMap, io};

use weft_core::{
    mark,
    name::{IfName, Mac},
    state::Object,
};

use super::numbers::*;
use super::table::{self, Element, Key, Part, Place, Shape};
use super::{
    ACCEPT, Error, GETCHAIN, GETRULE, GETTABLE, HOOK_DEV, HOOK_NUMBER, HOOK_PRIORITY, NETDEV,
    NEWCHAIN, NEWRULE, NEWTABLE, NLM_F_APPEND, NLM_F_CREATE, Nft, POISONED, header, shape, text_of,
    value_of,
};
use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, DELTABLE, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_TABLE, TABLE_FLAGS, TABLE_NAME,
};
use crate::{
    socket,
    wire::{self, Batch},
};

const INGRESS: u32 = 0;
const PRIORITY: u32 = 0;
const MACS: Shape = Shape::plain(&[Part::Mac]);
const PLACE: Place = Place { family: NETDEV, name: mark::TABLE, ahead: |_| false };

impl Nft {
    /// Adds the address to the NIC's set; what the set stands in is written with it.
    pub(crate) fn set_apart(&self, dev: &IfName, mac: Mac) -> Result<(), Error> {
        let _turn = self.apart.lock().expect(POISONED);
        // A rule written anew is one to be freed, for which the kernel waits: only where need is.
        let framed = framed(&mut self.socket.lock().expect(POISONED))?.contains(dev);
        let added = || self.transact(|batch| elem(batch, NEWSETELEM, dev, mac));
        if framed && added().is_ok() {
            return Ok(());
        }
        let write = |batch: &mut Batch| {
            own_table(batch, NEWTABLE, NLM_F_CREATE);
            frame(batch, dev);
            elem(batch, NEWSETELEM, dev, mac);
        };
        self.transact(write).or_else(|_| {
            // Somebody made it otherwise than we do: anew, and the others are written again by
            // who finds them missing.
            self.transact(|batch| {
                own_table(batch, NEWTABLE, NLM_F_CREATE);
                own_table(batch, DELTABLE, 0);
                write(batch);
            })
        })
    }

    /// Takes the address out; with the last of all NICs the table goes.
    pub(crate) fn join_again(&self, dev: &IfName, mac: Mac) -> Result<(), Error> {
        let _turn = self.apart.lock().expect(POISONED);
        let gone = self.transact(|batch| elem(batch, DELSETELEM, dev, mac));
        match gone {
            Err(Error::Write { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {}
            gone => gone?,
        }
        if self.apart()?.is_empty() { self.remove_apart() } else { Ok(()) }
    }

    pub(crate) fn remove_apart(&self) -> Result<(), Error> {
        self.transact(|batch| {
            own_table(batch, NEWTABLE, NLM_F_CREATE);
            own_table(batch, DELTABLE, 0);
        })
    }

    /// What is in force. A NIC whose chain is not as we write it has nothing.
    pub(crate) fn apart(&self) -> Result<Vec<Object>, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let mut objects = Vec::new();
        for dev in framed(&mut socket)? {
            let macs = elems(&mut socket, &dev).map_err(read("sets"))?;
            objects.extend(macs.into_iter().map(|mac| Object::Apart { dev: dev.clone(), mac }));
        }
        Ok(objects)
    }
}

fn read(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Read { what, error }
}

/// The NICs whose chains are just as we write them.
fn framed(socket: &mut socket::Link) -> Result<Vec<IfName>, Error> {
    let there = socket.dump(
        GETTABLE,
        &header(NETDEV),
        |_| {},
        |message| {
            let flags = value_of(message, TABLE_FLAGS)?.try_into().ok().map(u32::from_be_bytes);
            let ours = message.body.first() == Some(&NETDEV)
                && text_of(message, TABLE_NAME)? == mark::TABLE;
            (ours && flags == Some(0)).then_some(())
        },
    );
    if there.map_err(read("tables"))?.is_empty() {
        return Ok(Vec::new());
    }
    let mut devs = chains(socket).map_err(read("chains"))?;
    let rules = rules(socket).map_err(read("rules"))?;
    devs.retain(|dev| rules.get(&set(dev)) == Some(&vec![Some(set(dev))]));
    Ok(devs)
}

/// The name of a NIC's chain, and of its set.
fn set(dev: &IfName) -> String {
    format!("apart-{dev}")
}

fn own_table(batch: &mut Batch, kind: u16, flags: u16) {
    batch.begin(kind, flags, &header(NETDEV)).attr_str(TABLE_NAME, mark::TABLE);
    if kind == NEWTABLE {
        // Awake, whatever somebody made of it.
        batch.attr_be32(TABLE_FLAGS, 0);
    }
    batch.end();
}

/// The NIC's set, its chain, and the one rule in it: none of it twice, however often written.
fn frame(batch: &mut Batch, dev: &IfName) {
    let name = set(dev);
    batch
        .begin(NEWSET, NLM_F_CREATE, &header(NETDEV))
        .attr_str(SET_TABLE, mark::TABLE)
        .attr_str(SET_NAME, &name)
        .attr_be32(SET_ID, 1);
    MACS.encode(batch);
    batch.end();
    batch
        .begin(NEWCHAIN, NLM_F_CREATE, &header(NETDEV))
        .attr_str(CHAIN_TABLE, mark::TABLE)
        .attr_str(CHAIN_NAME, &name)
        .nest(CHAIN_HOOK, |batch| {
            batch
                .attr_be32(HOOK_NUMBER, INGRESS)
                .attr_be32(HOOK_PRIORITY, PRIORITY)
                .attr_str(HOOK_DEV, dev.as_str());
        })
        .attr_str(CHAIN_TYPE, "filter")
        .end();
    batch
        .begin(DELRULE, 0, &header(NETDEV))
        .attr_str(RULE_TABLE, mark::TABLE)
        .attr_str(RULE_CHAIN, &name)
        .end();
    batch
        .begin(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(NETDEV))
        .attr_str(RULE_TABLE, mark::TABLE)
        .attr_str(RULE_CHAIN, &name)
        .nest(RULE_EXPRESSIONS, |batch| shape::drop_senders(batch, &name))
        .end();
}

fn elem(batch: &mut Batch, kind: u16, dev: &IfName, mac: Mac) {
    let (name, one) = (set(dev), Element::one(Key::default().and_mac(mac)));
    table::write(batch, (PLACE, kind), (&name, &MACS), [one].iter());
}

/// The NICs that have a chain of ours in force.
fn chains(socket: &mut socket::Link) -> io::Result<Vec<IfName>> {
    socket.dump(
        GETCHAIN,
        &header(NETDEV),
        |_| {},
        |message| {
            let hook = value_of(message, CHAIN_HOOK)?;
            let of = |of: u16| wire::attrs(hook).find(|(kind, _)| *kind == of).map(|(_, v)| v);
            let number = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
            let dev: IfName = wire::text(of(HOOK_DEV)?).parse().ok()?;
            let policy = value_of(message, CHAIN_POLICY).and_then(number);
            let ours = text_of(message, CHAIN_TABLE)? == mark::TABLE
                && text_of(message, CHAIN_NAME)? == set(&dev)
                && text_of(message, CHAIN_TYPE)? == "filter"
                && number(of(HOOK_NUMBER)?) == Some(INGRESS)
                && policy == Some(ACCEPT);
            ours.then_some(dev)
        },
    )
}

/// Per chain its rules: the set whose members each drops, if that is what it does.
fn rules(socket: &mut socket::Link) -> io::Result<BTreeMap<String, Vec<Option<String>>>> {
    let rules = socket.dump(
        GETRULE,
        &header(NETDEV),
        |batch| {
            batch.attr_str(RULE_TABLE, mark::TABLE);
        },
        |message| {
            (text_of(message, RULE_TABLE)? == mark::TABLE).then(|| {
                let chain = text_of(message, RULE_CHAIN).unwrap_or_default();
                let drops = value_of(message, RULE_EXPRESSIONS).and_then(shape::dropped_senders);
                (chain, drops)
            })
        },
    )?;
    let mut chains = BTreeMap::<_, Vec<_>>::new();
    rules.into_iter().for_each(|(chain, drops)| chains.entry(chain).or_default().push(drops));
    Ok(chains)
}

fn elems(socket: &mut socket::Link, dev: &IfName) -> io::Result<Vec<Mac>> {
    let some = table::read(socket, PLACE, (&set(dev), &MACS))?.into_iter();
    Ok(some
        .filter_map(|element| element.first.bytes().get(..6)?.try_into().ok().map(Mac))
        .collect())
}
