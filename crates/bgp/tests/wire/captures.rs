//! What real speakers send: BIRD, FRR and GoBGP.

use weft_bgp::wire::{self, Message};

use crate::{
    corpus::{Case, captures},
    corpus_told::agreed,
    told::{answer, hex},
};

#[test]
fn are_understood() {
    for case in captures() {
        let read = wire::read(&case.message, &agreed(&case));
        assert_eq!(answer(&read), case.answer, "{}: {}", case.name, hex(&case.message));
        if let Ok(Some(Message::Update(update))) = read {
            assert!(update.faults.is_empty(), "{}: {:?}", case.name, update.faults);
        }
    }
}

/// BIRD writes as we do: the same bytes, where nothing is passed on that we don't know.
#[test]
fn of_bird_are_written_alike() {
    let alike: Vec<_> = captures().into_iter().filter(is_bird).collect();
    assert!(alike.len() > 10);
    for case in alike {
        let read = wire::read(&case.message, &agreed(&case)).unwrap().unwrap();
        let mut written = Vec::new();
        wire::write(&read, &agreed(&case), &mut written);
        assert_eq!(hex(&written), hex(&case.message));
    }
}

fn is_bird(case: &Case) -> bool {
    case.name.starts_with("BIRD") && !case.answer.contains("other")
}
