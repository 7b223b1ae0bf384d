//! Addresses that a network's own DHCP server gives: got for an ADD (`obtain.rs`), kept as long as
//! the pod lives by one thread for all (`keep.rs`), given back as it goes. What is said and when is
//! core's; what somebody has is declined (`conflict.rs`); the lease itself is in the pod's record.

mod conflict;
mod keep;
mod obtain;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, mpsc},
    time::Duration,
};

use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    dhcp::{Client, Lease, Standing},
    name::Mac,
};
use weft_linux::{DhcpSocket, Kernel, random, since_boot};

pub(super) use keep::spawn;
pub(super) use obtain::obtain;

use super::{Agent, POISONED, links::namespace};

/// Where broadcasts go.
const EVERYBODY: Mac = Mac([0xff; 6]);

/// What is known of leases besides their pods' records.
pub(super) struct Leases {
    keeper: mpsc::Sender<Told>,
    /// Pods whose ADD waits for an address just now: nothing of theirs is left over.
    asking: Mutex<BTreeSet<AttachmentId>>,
    /// Pods that go, of whom their servers were told.
    released: Mutex<BTreeSet<AttachmentId>>,
    /// What stands in the way of a lease.
    hindered: Mutex<BTreeMap<AttachmentId, String>>,
}

/// A socket that nobody needs any more.
type Spent = Box<dyn Send>;

/// What the thread that keeps leases is told.
pub(super) enum Told {
    /// There is one more.
    Leased,
    /// To be closed by one for whom nobody waits.
    Spent(Spent),
}

impl Leases {
    pub(super) fn new(keeper: mpsc::Sender<Told>) -> Self {
        let (asking, released, hindered) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { keeper, asking, released, hindered }
    }

    pub(super) fn is_asking(&self, id: &AttachmentId) -> bool {
        self.asking.lock().expect(POISONED).contains(id)
    }

    /// ADD was answered: from here on it is kept.
    pub(super) fn keep(&self) {
        let _ = self.keeper.send(Told::Leased);
    }

    fn close(&self, socket: impl Send + 'static) {
        let _ = self.keeper.send(Told::Spent(Box::new(socket)));
    }
}

fn client(pod: &Attachment) -> Client {
    Client::new(&pod.id, pod.mac, pod.pod.as_ref().map(|pod| pod.name.as_str()))
}

/// Tells the server that the pod needs its address no more. Nobody answers that, and where it can't
/// be said the lease ends by itself. Once for each pod that goes.
pub(super) fn release(agent: &Agent, pod: &Attachment) {
    let Some(lease) = pod.lease.as_ref().filter(|lease| !lease.is_lost()) else { return };
    if !agent.leases.released.lock().expect(POISONED).insert(pod.id.clone()) {
        return;
    }
    match say_release(pod, lease) {
        Ok(socket) => agent.leases.close(socket),
        Err(why) => {
            let (addr, server) = (lease.terms.addr, lease.terms.server);
            tracing::warn!(id = %pod.id, %addr, %server, why, "a lease is not given back; it ends by itself");
        }
    }
}

/// As `release`, where there is no agent.
pub(super) fn release_alone(pod: &Attachment) {
    let Some(lease) = pod.lease.as_ref().filter(|lease| !lease.is_lost()) else { return };
    if let Err(why) = say_release(pod, lease) {
        println!("  the lease of {} is not given back: {why}", lease.terms.addr);
    }
}

fn say_release(pod: &Attachment, lease: &Lease) -> Result<DhcpSocket, String> {
    let Some(netns) = namespace(pod)? else {
        return Err("the pod's namespace is gone, from which alone it could be said".into());
    };
    let said = || {
        let there = Kernel::of(&netns).map_err(std::io::Error::other)?;
        let socket = there.dhcp_socket(&pod.id.ifname)?;
        socket.send(&client(pod).say(&lease.release(), random()?, 0), lease.via)?;
        Ok(socket)
    };
    said().map_err(|error: std::io::Error| format!("by {}: {error}", pod.id.ifname))
}

impl Agent {
    /// What stands in the way of pods' leases.
    pub fn leases_in_danger(&self) -> Vec<String> {
        let hindered = self.leases.hindered.lock().expect(POISONED).clone();
        let ledger = self.ledger();
        let pods = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
        let said = pods.filter_map(|pod| {
            let lease = pod.lease.as_ref()?;
            let (addr, server) = (lease.terms.addr, lease.terms.server);
            let hindered = hindered.get(&pod.id);
            match (&lease.standing, hindered) {
                (Standing::Lost(why), now) => Some(format!(
                    "pod {} has lost its address {addr} and is without one: {why}; it is asked for \
                     again, and no other is of use: delete the pod if it does not come back{}",
                    pod.label(),
                    now.map_or_else(String::new, |now| format!(" (last: {now})"))
                )),
                (_, Some(why)) => Some(format!(
                    "pod {}: its lease of {addr} from {server} is not renewed and ends{}: {why}",
                    pod.label(),
                    left(lease)
                        .map_or_else(String::new, |left| format!(" in {} s", left.as_secs()))
                )),
                (_, None) => None,
            }
        });
        said.collect()
    }
}

/// Why a pod is without the address that it was given.
pub(super) fn lost(pod: &Attachment) -> Option<String> {
    let lease = pod.lease.as_ref()?;
    let Standing::Lost(why) = &lease.standing else { return None };
    Some(format!("it had {} of {}, which is lost: {why}", lease.terms.addr, lease.terms.server))
}

/// How long a lease lasts yet; none, of one for ever.
pub fn left(lease: &Lease) -> Option<Duration> {
    lease.end().map(|end| end.saturating_sub(since_boot()))
}
