//! Whoever knew an address by another MAC is told of the new one, and told again: a frame may be
//! lost, and a cache that was written just now is not overwritten (Linux: for a second).

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use weft_core::attachment::Attachment;
use weft_linux::{Announcement, Kernel};

use super::Agent;

/// After the first, which goes out before ADD is answered.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(300), Duration::from_millis(1100)];
const EVER: Duration = Duration::from_secs(3600);

pub(super) type Announcer = mpsc::Sender<Announcement>;

/// One that is yet to be sent, how often it was, and when it is due.
struct Pending {
    announcement: Announcement,
    first: Instant,
    sent: usize,
}

pub fn spawn(heard: mpsc::Receiver<Announcement>) -> anyhow::Result<()> {
    std::thread::Builder::new().name("announce".into()).spawn(move || run(&heard))?;
    Ok(())
}

fn run(heard: &mpsc::Receiver<Announcement>) {
    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let due = pending.iter().map(Pending::due).min();
        let wait = due.map_or(EVER, |due| due.saturating_duration_since(Instant::now()));
        match heard.recv_timeout(wait) {
            Ok(announcement) => {
                pending.push(Pending { announcement, first: Instant::now(), sent: 0 });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for due in pending.iter_mut().filter(|pending| pending.due() <= now) {
            due.sent += 1;
            if due.announcement.send().is_err() {
                // The link is gone; so is what was to be said.
                due.sent = AGAIN.len();
            }
        }
        let (more, done) = pending.drain(..).partition(|pending| pending.sent < AGAIN.len());
        pending = more;
        end(done);
    }
}

/// Each waits for an RCU grace period as it ends; together they wait for one.
fn end(done: Vec<Pending>) {
    std::thread::scope(|scope| {
        for pending in done {
            scope.spawn(move || drop(pending));
        }
    });
}

impl Pending {
    fn due(&self) -> Instant {
        self.first + AGAIN[self.sent]
    }
}

/// Says it once, and has it said again.
pub(super) fn announce(agent: &Agent, pod: &Attachment, there: &Kernel) {
    let announced = there.announcement(&pod.id.ifname, &pod.addrs).and_then(|announcement| {
        let sent = announcement.send();
        let _ = agent.announcer.send(announcement);
        sent
    });
    if let Err(error) = announced {
        tracing::warn!(id = %pod.id, %error, "could not tell the network of the pod's addresses");
    }
}
