//! Every pair of states, as RFC 5880, 6.8.6 has it: alone, and as a session lives it.

use crate::bfd::{
    Bfd, Change, Control, Diag, State,
    tests::world::{A, B, addr, ms, watch},
};

#[test]
fn every_state_hears_every_state() {
    let mut said = String::new();
    for state in State::ALL {
        for heard in State::ALL {
            let (next, diag) = state.hears(heard);
            let diag = if next == state { String::new() } else { format!(" ({diag})") };
            said += &format!("{state:9} hears {heard:9} -> {next}{diag}\n");
        }
    }
    let expected = "
admindown hears admindown -> admindown
admindown hears down      -> admindown
admindown hears init      -> admindown
admindown hears up        -> admindown
down      hears admindown -> down
down      hears down      -> init (no diagnostic)
down      hears init      -> up (no diagnostic)
down      hears up        -> down
init      hears admindown -> down (neighbour signaled session down)
init      hears down      -> init
init      hears init      -> up (no diagnostic)
init      hears up        -> up (no diagnostic)
up        hears admindown -> down (neighbour signaled session down)
up        hears down      -> down (neighbour signaled session down)
up        hears init      -> up
up        hears up        -> up
";
    assert_eq!(said, expected[1..]);
}

const THEIRS: u32 = 77;

/// An end alone, and what is said to it.
struct Lone {
    bfd: Bfd,
    ours: u32,
}

impl Lone {
    fn new() -> Self {
        let mut bfd = Bfd::new(1);
        bfd.configure(watch(A, ms(300), 3), ms(0));
        bfd.tick(ms(0));
        let first = Control::read(&bfd.transmit().unwrap().bytes).unwrap();
        Self { bfd, ours: first.mine }
    }

    fn said(&self, state: State) -> Control {
        Control {
            diag: Diag::None,
            state,
            poll: false,
            last: false,
            independent: false,
            demand: false,
            multiplier: 3,
            mine: THEIRS,
            yours: self.ours,
            desired_tx: ms(300),
            required_rx: ms(300),
            required_echo: ms(0),
        }
    }

    /// Returns what it sends thereupon.
    fn hears(&mut self, control: Control, now: u64) -> Vec<Control> {
        let bytes = control.write();
        self.bfd.receive(addr(B), addr(A), 255, 3784, &bytes, ms(now)).unwrap();
        self.bfd.tick(ms(now));
        self.sends()
    }

    fn sends(&mut self) -> Vec<Control> {
        let packets = std::iter::from_fn(|| self.bfd.transmit());
        packets.map(|packet| Control::read(&packet.bytes).unwrap()).collect()
    }

    fn silent(&mut self, from: u64, to: u64) -> Vec<Control> {
        let mut all = Vec::new();
        for now in from..=to {
            self.bfd.tick(ms(now));
            all.extend(self.sends());
        }
        all
    }

    fn state(&self) -> State {
        self.bfd.reports(ms(0))[&addr(B)].state
    }

    fn reach(&mut self, state: State) {
        let path: &[State] = match state {
            State::AdminDown | State::Down => &[],
            State::Init => &[State::Down],
            State::Up => &[State::Init],
        };
        for said in path {
            self.hears(self.said(*said), 1);
        }
        assert_eq!(self.state(), state);
        while self.bfd.event().is_some() {}
    }
}

#[test]
fn a_session_lives_every_pair_and_says_at_once_where_it_is() {
    let mut said = String::new();
    for state in [State::Down, State::Init, State::Up] {
        for heard in State::ALL {
            let mut lone = Lone::new();
            lone.reach(state);
            let sent = lone.hears(lone.said(heard), 2);
            let sent: Vec<String> = sent.iter().map(|sent| sent.state.to_string()).collect();
            let event = match lone.bfd.event() {
                Some((_, Change::Up)) => ", told up".to_owned(),
                Some((_, Change::Down { why, .. })) => format!(", told down: {why}"),
                None => String::new(),
            };
            let next = lone.state();
            said += &format!("{state} hears {heard} -> {next}, says {sent:?}{event}\n");
        }
    }
    let expected = r#"
down hears admindown -> down, says ["down"]
down hears down -> init, says ["init"]
down hears init -> up, says ["up"], told up
down hears up -> down, says ["down"]
init hears admindown -> down, says ["down"]
init hears down -> init, says []
init hears init -> up, says ["up"], told up
init hears up -> up, says ["up"], told up
up hears admindown -> down, says ["down"]
up hears down -> down, says ["down"], told down: 10.0.0.2 says that its session is down (no diagnostic)
up hears init -> up, says []
up hears up -> up, says []
"#;
    assert_eq!(said, expected[1..]);
}

#[test]
fn a_poll_is_answered_at_once_in_every_state() {
    for state in [State::Down, State::Init, State::Up] {
        let mut lone = Lone::new();
        lone.reach(state);
        // The state that changes nothing.
        let same = if state == State::Down { State::Up } else { state.hears(State::Down).0 };
        let same = if state == State::Up { State::Up } else { same };
        let asked = Control { poll: true, ..lone.said(same) };
        let sent = lone.hears(asked, 2);
        assert!(sent[0].last && !sent[0].poll, "{state}: {sent:?}");
        assert_eq!((sent.len(), sent[0].yours), (1, THEIRS), "{state}");
    }
}

#[test]
fn silence_ends_a_session_in_init_and_up_and_makes_it_forget_the_other() {
    for state in [State::Init, State::Up] {
        let mut lone = Lone::new();
        lone.reach(state);
        // Said with 300 ms times 3 at millisecond 1.
        lone.silent(2, 900);
        assert_eq!(lone.state(), state);
        let sent = lone.silent(901, 901);
        assert_eq!(lone.state(), State::Down);
        let [last] = sent[..] else { panic!("{sent:?}") };
        assert_eq!((last.state, last.yours), (State::Down, 0));
        assert_eq!(last.diag, Diag::DetectionTimeExpired);
        assert_eq!(lone.bfd.event().is_some(), state == State::Up, "{state}");
    }
}

#[test]
fn who_wants_to_hear_nothing_is_told_changes_alone() {
    let mut lone = Lone::new();
    lone.reach(State::Up);
    let deaf = Control { required_rx: ms(0), ..lone.said(State::Up) };
    lone.hears(deaf, 10);
    let mut packets = 0;
    for round in 0..10 {
        lone.hears(deaf, 10 + 100 * round);
        packets += lone.silent(11 + 100 * round, 109 + 100 * round).len();
    }
    assert_eq!((packets, lone.state()), (0, State::Up));
    // And who demands (6.6) is told nothing more either, once what changed is known to it.
    let mut lone = Lone::new();
    lone.reach(State::Up);
    let demands = Control { demand: true, last: true, ..lone.said(State::Up) };
    lone.hears(demands, 10);
    assert_eq!(lone.silent(11, 800).len(), 0);
    let polls = Control { poll: true, last: false, ..demands };
    assert!(lone.hears(polls, 801)[0].last);
}

#[test]
fn an_interval_that_the_other_makes_shorter_is_kept_at_once() {
    let mut lone = Lone::new();
    lone.reach(State::Up);
    let slow = Control { required_rx: ms(10_000), last: true, ..lone.said(State::Up) };
    lone.hears(slow, 2);
    let kept_up = |lone: &mut Lone, now| drop(lone.hears(slow, now));
    for round in 1..10 {
        kept_up(&mut lone, round * 100);
    }
    // Long silent, it speaks as soon as it may.
    let sent = lone.hears(Control { last: false, ..lone.said(State::Up) }, 1000);
    assert_eq!(sent.len(), 1, "{sent:?}");
    let sent = lone.silent(1001, 1300);
    assert_eq!(sent.len(), 1, "{sent:?}");
}
