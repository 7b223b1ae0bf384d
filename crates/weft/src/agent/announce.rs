//! Whoever knew an address by another MAC is told of the new one, and told again: a frame may be
//! lost, and a cache that was written just now is not overwritten (Linux: for a second).

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use weft_core::attachment::{Attachment, AttachmentId, Phase};
use weft_linux::{Announcement, Kernel};

use super::Agent;

/// After the first, which goes out before ADD is answered.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(300), Duration::from_millis(1100)];
const EVER: Duration = Duration::from_secs(3600);

/// What is said, and whose it is.
type Said = (AttachmentId, Announcement);
pub(super) type Announcer = mpsc::Sender<Said>;

/// One that is yet to be sent, how often it was, and when it is due.
struct Pending {
    id: AttachmentId,
    announcement: Announcement,
    first: Instant,
    sent: usize,
}

pub(super) fn spawn(agent: &Arc<Agent>, heard: mpsc::Receiver<Said>) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("announce".into()).spawn(move || run(&agent, &heard))?;
    Ok(())
}

fn run(agent: &Agent, heard: &mpsc::Receiver<Said>) {
    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let due = pending.iter().map(Pending::due).min();
        let wait = due.map_or(EVER, |due| due.saturating_duration_since(Instant::now()));
        match heard.recv_timeout(wait) {
            Ok((id, announcement)) => {
                pending.push(Pending { id, announcement, first: Instant::now(), sent: 0 });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for due in pending.iter_mut().filter(|pending| pending.due() <= now) {
            due.sent += 1;
            // A link that is gone, or is about to be freed, has no address any more.
            if !has_it(agent, &due.id) || due.announcement.send().is_err() {
                due.sent = AGAIN.len();
            }
        }
        let (more, done) = pending.drain(..).partition(|pending| pending.sent < AGAIN.len());
        pending = more;
        end(done);
    }
}

/// False of a pod that goes: its address may be another's already.
fn has_it(agent: &Agent, id: &AttachmentId) -> bool {
    agent.ledger().get(id).is_some_and(|pod| pod.phase != Phase::Doomed)
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
        let _ = agent.announcer.send((pod.id.clone(), announcement));
        sent
    });
    if let Err(error) = announced {
        tracing::warn!(id = %pod.id, %error, "could not tell the network of the pod's addresses");
    }
}
