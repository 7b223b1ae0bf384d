//! The corpus: each message has the answer that stands beside it, and each cut of it has one.

use weft_bgp::wire::{self, Agreed, Message, Update};

use crate::{
    corpus::{Case, cases},
    told::answer,
};

pub fn agreed(case: &Case) -> Agreed {
    Agreed {
        four_octet_as: case.four_octet_as,
        ipv4: true,
        ipv6: true,
        ipv4_over_ipv6: case.ipv4_over_ipv6,
        external: case.external,
    }
}

#[test]
fn each_has_its_answer() {
    let mut wrong = String::new();
    for case in cases() {
        let read = wire::read(&case.message, &agreed(&case));
        let notes = match &read {
            Ok(Some(Message::Update(Update { faults, .. }))) => faults.clone(),
            _ => Vec::new(),
        };
        let answer = answer(&read);
        if (&answer, &notes) != (&case.answer, &case.notes) {
            wrong += &format!("name: {}\nanswer: {answer}\n", case.name);
            wrong.extend(notes.iter().map(|note| format!("note: {note}\n")));
        }
    }
    assert!(wrong.is_empty(), "not as the corpus says:\n\n{wrong}");
}
