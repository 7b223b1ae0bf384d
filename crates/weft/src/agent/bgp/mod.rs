//! BGP as this node has it: the speaker is started when a network first asks for it, told each round what
//! it is to be, and asked what it has learnt. Who speaks with whom core says (`weft_core::bgp`); how that
//! is done is `crate::bgp`'s.

mod anew;
mod convert;
mod fresh;
mod parting;
mod say;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_bgp::{bfd, report::NeighbourReport};
use weft_core::{
    bgp::{self, Local, Speaker},
    join::{Receive, Way},
    learnt::{Beside, Learnt, Ours, beside},
    paths::Nic,
    plan::Change,
    state::Key,
    view::View,
};
use weft_linux::HostLink;

use self::fresh::{FRESH, Fresh};
use super::{Agent, POISONED, Serving, wake::Reasons};
use crate::bgp::{Desired, Keep, Known, Router};

/// What neighbours said, for a successor of this process: gone with the boot, as the routes are.
const KEEP: &str = "bgp.keep";
/// A session that is down for longer is a problem.
const DOWN_MAX: Duration = Duration::from_secs(10);
/// Of the routes that contradict what is known here so many are told; all are in `weft bgp`.
const TOLD_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Bgp(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    router: Option<Router>,
    /// It said goodbye: this process is about to end.
    left: bool,
    /// Why there is none although one is needed.
    failed: Option<String>,
    told: Option<Desired>,
    /// What was decided last, and what spoke against parts of it.
    speaker: Option<Speaker>,
    problems: Vec<String>,
    /// Passwords by file, as last read.
    passwords: BTreeMap<PathBuf, String>,
    /// Since when each session is down.
    down: BTreeMap<IpAddr, Instant>,
    learnt: Option<(Arc<Known>, Arc<Learnt>)>,
    fresh: Fresh,
    anew: anew::Anew,
    parting: parting::Parting,
    /// What is told depends on time alone.
    looks_again: bool,
}

impl Bgp {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect(POISONED)
    }

    /// True if there is to be another round soon.
    pub fn looks_again(&self) -> bool {
        self.inner().looks_again
    }

    /// Before the process ends: neighbours keep what they learnt of us, as was agreed.
    pub fn leave(&self) {
        let router = {
            let mut inner = self.inner();
            inner.left = true;
            inner.router.take()
        };
        if let Some(router) = router {
            router.stop(false);
        }
    }
}

/// True if a network is joined by BGP, or still may be by somebody.
fn needed(agent: &Agent, view: &View, last: &Serving) -> bool {
    let own = view.nodes.get(&agent.node).map(|node| &node.record.networks);
    let by_bgp = |receive: &Receive| receive.way() == Way::Bgp;
    view.networks.values().any(|network| network.join.kind().bgp().is_some())
        || own.is_some_and(|parts| bgp::participates(parts.iter().map(|(_, part)| part)))
        || last.networks.values().any(|here| here.stage.hold.iter().any(by_bgp))
}

/// What is learnt at this moment. The speaker runs before anything is decided: what an earlier
/// process of this node had learnt is then known again.
pub(super) fn learnt(agent: &Agent, view: &View, last: &Serving) -> Arc<Learnt> {
    let mut inner = agent.bgp.inner();
    if inner.left {
        return Arc::new(Learnt { settling: true, ..Learnt::default() });
    }
    if !needed(agent, view, last) {
        end(agent, &mut inner);
        return Arc::default();
    }
    if inner.router.is_none() {
        let wake = agent.wake.clone();
        let news = Box::new(move || wake.ring(Reasons::VIEW));
        let forwards = agent.ledger().attachments().next().is_some();
        let keep = Keep { file: agent.config.run_dir.join(KEEP), forwards };
        match Router::start(keep, news) {
            Ok(router) => {
                (inner.router, inner.failed) = (Some(router), None);
                inner.anew.begin();
            }
            Err(error) => inner.failed = Some(format!("BGP: start the speaker: {error}")),
        }
    }
    let Some(known) = inner.router.as_ref().map(Router::known) else {
        // Nobody knows what is gone.
        return Arc::new(Learnt { settling: true, ..Learnt::default() });
    };
    inner.take(agent, known, view.bgp.aggregates)
}

/// No network needs it any more: neighbours are to forget us at once.
fn end(agent: &Agent, inner: &mut Inner) {
    if let Some(router) = inner.router.take() {
        tracing::info!("no network is joined by BGP any more: its sessions end");
        router.stop(true);
        forget(&agent.config.run_dir);
    }
    *inner = Inner::default();
}

/// Takes away what a process of this node kept for its successor: routes, and BFD's sessions.
pub(super) fn forget(run_dir: &Path) {
    let _ = fs::remove_file(run_dir.join(KEEP));
    let _ = fs::remove_file(run_dir.join(KEEP).with_extension("bfd"));
}

/// Tells the speaker what it is to be now that this is served; true if there is one.
pub(super) fn tell(agent: &Agent, view: &View, serving: &Serving, links: &[HostLink]) -> bool {
    let originated = say::originated(agent, serving);
    let mut inner = agent.bgp.inner();
    if inner.router.is_none() {
        // What was told last is what neighbours keep.
        return inner.left;
    }
    let nics = nics(links);
    let speaker = bgp::speaker(&Local {
        node: &agent.node,
        labels: &agent.config.labels,
        underlay: &serving.nics,
        nics: &nics,
        view,
    });
    let (passwords, mut problems) = passwords(&speaker, &mut inner.passwords);
    let mut desired = convert::desired(&speaker, &view.bgp, originated, &passwords);
    let neighbours = inner.follow();
    let Inner { parting, anew, told, speaker: before, .. } = &mut *inner;
    let was = (told.as_ref(), before.as_ref());
    inner.looks_again = parting.keep(&mut desired, was, (view, &neighbours)) || anew.begun();
    problems.extend(speaker.problems.iter().map(|problem| format!("BGP: {problem}")));
    inner.problems = problems;
    inner.speaker = Some(speaker);
    if inner.told.as_ref() != Some(&desired)
        && let Some(router) = &inner.router
    {
        router.configure(desired.clone());
        inner.told = Some(desired);
    }
    true
}

impl Inner {
    fn take(&mut self, agent: &Agent, known: Arc<Known>, aggregates: bool) -> Arc<Learnt> {
        let (now, before) = (Instant::now(), self.learnt.take());
        let aged = self.fresh.age(now);
        let router = self.router.as_ref();
        let reports = || router.map(Router::neighbours).unwrap_or_default();
        let settling = self.anew.waits(&known, self.told.as_ref(), reports) || known.settling;
        let same = before.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, &known));
        let learnt = match before {
            Some((_, learnt))
                if same
                    && !aged
                    && learnt.aggregates == aggregates
                    && learnt.settling == settling =>
            {
                learnt
            }
            before => {
                if !same {
                    self.fresh.note(before.as_ref().map(|(of, _)| &**of), &known, now);
                }
                let mut learnt = convert::learnt(&known, &self.fresh, aggregates);
                if settling {
                    learnt.withdrawn = withdrawn(before.as_ref().map(|(_, of)| &**of), &learnt);
                }
                Arc::new(Learnt { settling, ..learnt })
            }
        };
        if !same && self.fresh.any() {
            let wake = agent.wake.clone();
            agent.runtime.spawn(async move {
                tokio::time::sleep(FRESH).await;
                wake.ring(Reasons::VIEW);
            });
        }
        self.learnt = Some((known, learnt.clone()));
        learnt
    }

    /// Keeps account of how long sessions are down.
    fn follow(&mut self) -> Vec<NeighbourReport> {
        let neighbours = self.router.as_ref().map(Router::neighbours).unwrap_or_default();
        let down = |n: &&NeighbourReport| n.state != "established";
        let now = Instant::now();
        let was = std::mem::take(&mut self.down);
        let down = neighbours.iter().filter(down).filter_map(|n| n.addr);
        self.down = down.map(|addr| (addr, was.get(&addr).copied().unwrap_or(now))).collect();
        neighbours
    }
}

/// What was said since it was asked for, and is no longer.
fn withdrawn(before: Option<&Learnt>, now: &Learnt) -> BTreeSet<IpNet> {
    let known = before.into_iter().flat_map(|before| before.routes.keys().chain(&before.withdrawn));
    known.filter(|dst| !now.routes.contains_key(dst)).copied().collect()
}

/// Every address of the host's own by which it may have a neighbour.
fn nics(links: &[HostLink]) -> Vec<Nic> {
    let own = links.iter().filter(|link| link.up && !link.loopback && !link.dev.is_ours());
    own.flat_map(|link| {
        let mtu = weft_core::name::Mtu::from_kernel(link.mtu);
        link.addrs.iter().map(move |addr| Nic { dev: link.dev.clone(), addr: *addr, mtu })
    })
    .collect()
}

/// The passwords of the files that neighbours name, and which of them can't be read. One that could
/// be read earlier still serves.
fn passwords(
    speaker: &Speaker,
    known: &mut BTreeMap<PathBuf, String>,
) -> (BTreeMap<PathBuf, String>, Vec<String>) {
    let mut problems = Vec::new();
    let files = speaker.neighbours.values().filter_map(|n| Some((n.password_file.as_ref()?, n)));
    let mut read: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut failed: BTreeMap<&PathBuf, (String, Vec<&str>)> = BTreeMap::new();
    for (path, neighbour) in files {
        if read.contains_key(path) {
            continue;
        }
        match password(path) {
            Ok(password) => drop(read.insert(path.clone(), password)),
            Err(why) => {
                failed.entry(path).or_insert((why, Vec::new())).1.push(&neighbour.name);
            }
        }
    }
    for (path, (why, of)) in failed {
        let had = known.get(path).cloned();
        let until =
            if had.is_some() { "the one read before serves" } else { "no session until then" };
        problems.push(format!(
            "BGP: the password of {} can't be read: {}: {why} ({until})",
            of.join(", "),
            path.display()
        ));
        read.extend(had.map(|password| (path.clone(), password)));
    }
    known.clone_from(&read);
    (read, problems)
}

fn password(path: &Path) -> Result<String, String> {
    /// TCP_MD5SIG_MAXKEYLEN of include/uapi/linux/tcp.h.
    const MOST: usize = 80;
    /// Enough to see that it is too long.
    const READ_MAX: u64 = 256;
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        // Reading a device or a pipe may never end.
        return Err("it is no file".into());
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(READ_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("it is empty".into()),
        long if long.len() > MOST => Err(format!("it is longer than {MOST} bytes")),
        password => Ok(password.to_owned()),
    }
}

/// Which learnt routes are installed as they are.
pub(super) fn installed(
    agent: &Agent,
    view: &View,
    learnt: &Learnt,
    (links, reach): (&[HostLink], &super::ways::Reaches),
) -> Beside {
    if learnt.routes.is_empty() {
        return Beside::default();
    }
    let ranges = view.networks.iter();
    let ranges =
        ranges.flat_map(|(name, network)| network.ranges.iter().map(|r| (name.clone(), *r)));
    let blocks = view.claims.iter().map(|((_, block), claim)| (*block, claim.node == agent.node));
    let connected: Vec<_> = nics(links).iter().map(|nic| nic.addr.trunc()).collect();
    beside(
        learnt,
        &Ours {
            ranges: &ranges.collect::<Vec<_>>(),
            own: &blocks.clone().filter(|(_, own)| *own).map(|(block, _)| block).collect(),
            blocks: &blocks.map(|(block, _)| block).collect(),
            connected: &connected,
            reach,
        },
    )
}

/// What BGP's neighbours may have said before this process began, and have yet to say again.
pub(super) fn may_be_said_again(serving: &Serving, learnt: &Learnt, change: &Change) -> bool {
    let own = |dst: &IpNet| {
        serving.networks.values().flat_map(|here| &here.blocks).any(|block| block.contains(dst))
    };
    match change {
        Change::Drop(Key::Route(dst)) => learnt.may_come(dst) && !own(dst),
        Change::Drop(key) => matches!(key, Key::NextHop(..) | Key::Group(_)),
        _ => false,
    }
}

impl Agent {
    pub fn bgp_neighbours(&self) -> Vec<NeighbourReport> {
        self.bgp.inner().router.as_ref().map(Router::neighbours).unwrap_or_default()
    }

    pub fn bgp_watched(&self) -> BTreeMap<IpAddr, bfd::Report> {
        self.bgp.inner().router.as_ref().map(Router::watched).unwrap_or_default()
    }

    pub fn bgp_known(&self) -> Arc<Known> {
        self.bgp.inner().router.as_ref().map(Router::known).unwrap_or_default()
    }

    /// None: no network needs one.
    pub fn bgp_speaker(&self) -> Option<Speaker> {
        self.bgp.inner().speaker.clone()
    }

    /// What is wrong with BGP, for `weft status`.
    pub fn bgp_problems(&self) -> Vec<String> {
        let mut inner = self.bgp.inner();
        let neighbours = inner.follow();
        let mut problems: Vec<String> = inner.failed.iter().cloned().collect();
        problems.extend(inner.problems.iter().cloned());
        let told = inner.router.as_ref().map(Router::problems).unwrap_or_default();
        problems.extend(told.into_iter().map(|problem| format!("BGP: {problem}")));
        for neighbour in &neighbours {
            let since = neighbour.addr.and_then(|addr| inner.down.get(&addr));
            let since = since.map(Instant::elapsed).filter(|long| *long > DOWN_MAX);
            problems.extend(since.map(|long| down(neighbour, long)));
        }
        drop(inner);
        let serving = self.serving();
        let refused = &serving.host.learnt.refused;
        let named = refused.iter().take(TOLD_MAX);
        problems.extend(named.map(|(dst, why)| {
            format!("BGP: learnt route {dst} is left out: {why} (`weft bgp routes`)")
        }));
        if refused.len() > TOLD_MAX {
            problems
                .push(format!("BGP: {} more learnt routes are left out", refused.len() - TOLD_MAX));
        }
        problems
    }

    /// A pod came or went whose address is said by itself.
    pub(super) fn tell_addresses(&self, network: &weft_core::name::NetworkName) {
        if self.serving().networks.get(network).is_some_and(say::alone) {
            self.wake.ring(Reasons::VIEW);
        }
    }
}

fn down(neighbour: &NeighbourReport, long: Duration) -> String {
    let addr = neighbour.addr.map(|addr| addr.to_string()).unwrap_or_default();
    let why = neighbour.last_error.as_deref().unwrap_or("it has not answered yet");
    format!(
        "BGP: the session with {} (AS {}, {addr}) is down for {} s, {}: {why}",
        neighbour.name,
        neighbour.remote_as,
        long.as_secs(),
        neighbour.state
    )
}
