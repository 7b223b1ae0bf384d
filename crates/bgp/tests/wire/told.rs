//! What reading gave, as text.

use std::fmt::Display;

use weft_bgp::{
    attrs::Attrs,
    wire::{Message, Notification, Update},
};

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

pub fn answer(read: &Result<Option<Message>, Notification>) -> String {
    match read {
        Ok(Some(Message::Update(told))) => update(told),
        Ok(other) => format!("{other:?}"),
        Err(n) => format!("NOTIFICATION {}/{} {}", n.code, n.subcode, hex(&n.data)).trim().into(),
    }
}

fn update(update: &Update) -> String {
    let mut parts = Vec::new();
    if !update.withdrawn.is_empty() {
        parts.push(format!("withdraw {}", spaced(&update.withdrawn)));
    }
    for reach in &update.reach {
        let (via, prefixes) = (reach.next_hop.addr(), spaced(&reach.prefixes));
        let local = match reach.next_hop {
            weft_bgp::attrs::NextHop::V6(_, Some(local)) => format!(" or {local}"),
            _ => String::new(),
        };
        parts.push(format!("announce {prefixes} via {via}{local}"));
    }
    parts.extend(update.attrs.iter().map(attrs));
    parts.extend(update.end_of_rib.map(|family| format!("end-of-rib {family}")));
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

fn attrs(attrs: &Attrs) -> String {
    let mut words = vec![format!("{:?}", attrs.origin).to_lowercase()];
    words.push(format!("path [{}]", attrs.as_path));
    words.extend(attrs.med.map(|med| format!("med {med}")));
    words.extend(attrs.local_pref.map(|pref| format!("pref {pref}")));
    words.extend(attrs.atomic_aggregate.then(|| "atomic".to_owned()));
    words.extend(attrs.aggregator.map(|(asn, addr)| format!("aggregator {asn} {addr}")));
    words.extend(list("communities", &attrs.communities));
    words.extend(list("large", &attrs.large_communities));
    words.extend(attrs.originator.map(|id| format!("originator {id}")));
    words.extend(list("clusters", &attrs.cluster_list));
    words.extend(attrs.others.iter().map(|other| {
        let partial = if other.partial { " partial" } else { "" };
        format!("other {}{partial} [{}]", other.code, hex(&other.value))
    }));
    words.join(" ")
}

fn list<T: Display>(name: &str, all: &[T]) -> Option<String> {
    (!all.is_empty()).then(|| format!("{name} {}", spaced(all)))
}

fn spaced<T: Display>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}
