//! The agent: the only writer to a node's kernel.
//!
//! `node.rs` is the loop (observe, plan, apply), `pods.rs` the CNI verbs, `claims.rs` and
//! `publish.rs` what it tells the store, `watch.rs` what it hears from it. None of them decides:
//! deciding is core's.

mod able;
mod access;
mod announce;
mod bgp;
mod cache;
mod check;
mod children;
mod chunks;
#[cfg(test)]
mod churn;
mod claims;
pub mod config;
mod daemons;
pub mod dealt;
mod dhcp;
mod fault;
mod findings;
mod first;
mod fixed;
mod further;
mod hear;
mod host;
mod install;
mod judged;
mod lease;
mod ledger;
mod links;
mod node;
mod pods;
pub mod policy;
mod ports;
mod publish;
mod reap;
mod refusals;
mod serve;
mod services;
mod sight;
mod strangers;
mod switch;
mod sysctls;
pub mod timing;
mod underlay;
mod uninstall;
mod wake;
mod watch;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use anyhow::{Context, bail};
use ipnet::IpNet;
use weft_core::{
    attach::access::Access,
    attachment::AttachmentId,
    desired::{Host, Served},
    ipam::Reserve,
    learnt::Learnt,
    name::{Mtu, NetworkName, NodeName},
    network::Network,
    paths::{Nic, Stage},
    plan::Change,
    view::View,
};
use weft_linux::Kernel;

pub use claims::free;
pub use config::Config;
pub use dhcp::left;
pub use fixed::{Freed, free as free_fixed};
pub use links::missing_inside;
pub use serve::listen;
pub use uninstall::{is_uninstalled, store_left, uninstall};

use crate::store::Store;

/// What every part of the agent shares.
pub struct Agent {
    pub config: Config,
    pub node: NodeName,
    pub boot: String,
    /// The cookie of the host's namespace.
    cookie: Option<u64>,
    pub kernel: Kernel,
    pub store: Store,
    shown: RwLock<Shown>,
    ledger: Mutex<ledger::Ledger>,
    /// Held shared by whatever makes or ends one pod's link, alone by the loop: it must not take a
    /// link that is being born for one that nobody wants.
    gate: RwLock<()>,
    serving: RwLock<Arc<Serving>>,
    /// Told when `serving` or an address became available.
    progress: (Mutex<u64>, Condvar),
    wake: Arc<wake::Wake>,
    /// Sessions with neighbours, while a network needs any.
    bgp: bgp::Bgp,
    publication: tokio::sync::watch::Sender<publish::Publication>,
    /// Networks that ran out of addresses and want one more block.
    hungry: Mutex<BTreeMap<NetworkName, bool>>,
    /// Ranges of which this node could not claim a block.
    unclaimed: Mutex<BTreeMap<(NetworkName, IpNet), claims::Unclaimed>>,
    claimer: tokio::sync::Notify,
    /// What the API server says of Nodes' own blocks, where there is one.
    node_cidrs: Mutex<Option<dealt::NodeCidrs>>,
    /// The UID of this node's Node object.
    node_object: Mutex<Option<String>>,
    /// The cluster's ServiceCIDRs, as last heard.
    service_cidrs: Mutex<Vec<IpNet>>,
    doomed: wake::Wake,
    /// A link that is in its pod's namespace alone may have gone.
    pods_gone: std::sync::atomic::AtomicBool,
    announcer: announce::Announcer,
    leases: dhcp::Leases,
    /// Attachments that a call is about; a second call for one waits.
    busy: Mutex<BTreeSet<AttachmentId>>,
    /// Attachments of ADDs under way that are whole, while another of the same ADD is not.
    whole: Mutex<BTreeSet<AttachmentId>>,
    /// Of networks that are joined in a multicast group: who was heard there.
    hearings: Mutex<BTreeMap<NetworkName, hear::Hearing>>,
    /// Whoever else has addresses on networks that pods share with him.
    strangers: strangers::Bell,
    /// How many MAC addresses physical switches admit.
    switches: switch::Switches,
    /// Where anybody says anything of policies.
    pub policies: Option<policy::Policies>,
    /// What stands between the node's runtime and weft.
    uninstalled: Mutex<Option<String>>,
    /// What the API server is asked beside the store, where that is the store.
    #[cfg(feature = "kubernetes")]
    pub cluster: Option<Arc<crate::kube::Cluster>>,
    runtime: tokio::runtime::Handle,
    pub counters: Counters,
}

/// The view of the cluster, and how far to trust it.
#[derive(Default)]
pub struct Shown {
    pub view: View,
    /// A full list came from the store since this process began. Only then may anything be swept.
    pub synced: bool,
    /// Why the store can't be reached, as long as it can't.
    pub away: Option<String>,
}

/// What the last round of the loop found and decided.
#[derive(Clone, Default)]
pub struct Serving {
    pub networks: BTreeMap<NetworkName, NetworkHere>,
    pub host: Host,
    pub nics: Vec<Nic>,
    /// The plan was empty at the end of the last round.
    pub converged: bool,
    /// What it was, where it was not.
    pub undone: Vec<Change>,
    /// What the kernel refused, what contradicts us, what the operator should know.
    pub problems: Vec<String>,
    /// Pods' links by what was last written inside them.
    pub applied: BTreeMap<AttachmentId, Inside>,
    /// Pods that did not take all of it.
    pub refused_inside: BTreeMap<AttachmentId, String>,
    pub rounds: u64,
    /// After a restart, until BGP's neighbours have said their routes again: what is known of them. What
    /// may come of them again is not gone.
    pub settling: Option<Arc<Learnt>>,
}

/// What of a network is written inside its pods: what they may send, what they take, what they
/// reach by their node, and whether their sources are judged.
#[derive(Clone, PartialEq, Eq)]
pub struct Inside {
    send: Mtu,
    accept: Mtu,
    access: Option<Arc<Access>>,
    spoof_check: bool,
}

/// One network as this node serves it.
#[derive(Clone)]
pub struct NetworkHere {
    pub network: Network,
    pub blocks: Vec<IpNet>,
    pub stage: Stage,
    /// Addresses of the blocks that no pod is given.
    pub reserve: Reserve,
    /// What pods reach by this node whose link is no way to it.
    pub access: Option<Arc<Access>>,
}

impl NetworkHere {
    /// True if this node has a block of each range, or needs none.
    fn has_blocks(&self) -> bool {
        let has = |range: &IpNet| self.blocks.iter().any(|block| range.contains(block));
        self.network.by_dhcp() || self.network.ranges.iter().all(has)
    }

    pub fn served<'a>(&'a self, name: &'a NetworkName) -> Served<'a> {
        let access = self.access.as_deref();
        Served { name, network: &self.network, blocks: &self.blocks, stage: &self.stage, access }
    }
}

#[derive(Default)]
pub struct Counters {
    pub adds: std::sync::atomic::AtomicU64,
    pub dels: std::sync::atomic::AtomicU64,
    pub errors: std::sync::atomic::AtomicU64,
    pub rounds: std::sync::atomic::AtomicU64,
    pub changes: std::sync::atomic::AtomicU64,
    pub refusals: std::sync::atomic::AtomicU64,
    /// What addresses of pods took.
    pub addresses: timing::Timing,
}

impl Serving {
    pub fn served(&self) -> Vec<Served<'_>> {
        self.networks.iter().map(|(name, here)| here.served(name)).collect()
    }
}

/// What an agent begins with.
struct Begin {
    config: Config,
    node: NodeName,
    boot: String,
    ledger: ledger::Ledger,
    kernel: Kernel,
    store: Store,
    view: View,
    channels: Channels,
}

/// Ways to threads that have yet to start.
struct Channels {
    announcer: announce::Announcer,
    keeper: std::sync::mpsc::Sender<dhcp::Told>,
    strangers: strangers::Bell,
}

const POISONED: &str = "a thread that panics aborts the agent, so no lock is ever poisoned";

impl Agent {
    fn new(begin: Begin, runtime: tokio::runtime::Handle) -> Self {
        Self {
            policies: policy::Policies::new(&begin.config, &begin.node),
            #[cfg(feature = "kubernetes")]
            cluster: begin.store.kubernetes().map(|store| {
                let server = store.server().clone();
                Arc::new(crate::kube::Cluster::new(server, begin.node.as_str(), &runtime))
            }),
            node: begin.node,
            boot: begin.boot,
            cookie: weft_linux::cookie_here().ok(),
            kernel: begin.kernel,
            store: begin.store,
            shown: RwLock::new(Shown { view: begin.view, ..Shown::default() }),
            ledger: Mutex::new(begin.ledger),
            gate: RwLock::new(()),
            serving: RwLock::default(),
            progress: (Mutex::new(0), Condvar::new()),
            wake: Arc::default(),
            bgp: bgp::Bgp::default(),
            publication: tokio::sync::watch::Sender::default(),
            hungry: Mutex::default(),
            unclaimed: Mutex::default(),
            claimer: tokio::sync::Notify::new(),
            node_cidrs: Mutex::new(begin.config.store.node_cidrs()),
            node_object: Mutex::default(),
            service_cidrs: Mutex::new(services::last(&begin.config)),
            doomed: wake::Wake::default(),
            pods_gone: false.into(),
            announcer: begin.channels.announcer,
            leases: dhcp::Leases::new(begin.channels.keeper),
            strangers: begin.channels.strangers,
            switches: switch::Switches::default(),
            uninstalled: Mutex::default(),
            busy: Mutex::default(),
            whole: Mutex::default(),
            hearings: Mutex::default(),
            runtime,
            counters: Counters::default(),
            config: begin.config,
        }
    }
    pub fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.shown.read().expect(POISONED)
    }
    fn shown_mut(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().expect(POISONED)
    }
    pub fn ledger(&self) -> MutexGuard<'_, ledger::Ledger> {
        self.ledger.lock().expect(POISONED)
    }
    pub fn serving(&self) -> Arc<Serving> {
        self.serving.read().expect(POISONED).clone()
    }
    /// What is wrong with multicast, by network.
    pub fn unheard(&self) -> Vec<String> {
        let (serving, hearings) = (self.serving(), self.hearings.lock().expect(POISONED));
        let said = serving.networks.iter().filter_map(|(name, here)| {
            let group = here.network.join.kind().group()?;
            let problem = match hearings.get(name) {
                Some(hearing) => hearing.problem()?,
                None => format!("no peer was heard in group {group} yet"),
            };
            Some(format!("network {name}: {problem}"))
        });
        said.collect()
    }
    /// Kinds of objects that the API server does not tell of as it should.
    pub fn watch_problems(&self) -> Vec<String> {
        #[cfg(feature = "kubernetes")]
        if let Some(store) = self.store.kubernetes() {
            return store.server().watches().problems(crate::store::kubernetes::is_ours);
        }
        Vec::new()
    }
    fn set_serving(&self, serving: Serving) {
        *self.serving.write().expect(POISONED) = Arc::new(serving);
        self.tell_progress();
    }
    fn tell_progress(&self) {
        *self.progress.0.lock().expect(POISONED) += 1;
        self.progress.1.notify_all();
    }
}

/// Runs until a signal ends it. What is in the kernel stays: pods keep talking.
pub fn run(config: Config) -> anyhow::Result<()> {
    weft_linux::memory::share_arena();
    let node = config.node_name()?;
    let kernel =
        Kernel::here().context("open netlink sockets: the agent needs root (CAP_NET_ADMIN)")?;
    for dir in [&config.run_dir, &config.cache_dir] {
        fs::create_dir_all(dir).with_context(|| format!("make the directory {}", dir.display()))?;
    }
    let _lock = lock(&config.run_dir)?;
    let boot = boot_id()?;
    let ledger = ledger::Ledger::open(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let store = runtime.block_on(Store::open(&config.store)).context("open the store")?;
    let view = cache::view(&config.cache_dir);
    let (strangers, rung) = strangers::Bell::hang().context("make a pair of sockets")?;
    let (announcer, heard) = std::sync::mpsc::channel();
    let (keeper, told) = std::sync::mpsc::channel();
    let channels = Channels { announcer, keeper, strangers };
    let begin = Begin { config, node, boot, ledger, kernel, store, view, channels };
    let agent = Arc::new(Agent::new(begin, runtime.handle().clone()));
    tracing::info!(node = %agent.node, "agent starts");
    runtime.spawn(watch::run(agent.clone()));
    runtime.spawn(publish::run(agent.clone()));
    runtime.spawn(claims::run(agent.clone()));
    runtime.spawn(first::run(agent.clone()));
    node::spawn(&agent)?;
    reap::spawn(&agent)?;
    hear::spawn(&agent)?;
    announce::spawn(&agent, heard)?;
    strangers::spawn(&agent, rung)?;
    switch::spawn(&agent)?;
    dhcp::spawn(&agent, told)?;
    policy::spawn(&agent)?;
    #[cfg(feature = "kubernetes")]
    crate::kube::spawn(&agent, runtime.handle());
    serve::spawn(&agent)?;
    install::spawn(&agent)?;
    crate::control::spawn(&agent, &runtime)?;
    runtime.block_on(ended());
    agent.bgp.leave();
    tracing::info!("agent ends; what it made stays");
    let _ = fs::remove_file(agent.config.cni_socket());
    let _ = fs::remove_file(agent.config.control_socket());
    // Threads that wait on the kernel have no other end.
    std::process::exit(0)
}

/// Blocks until somebody ends the process, in order.
pub fn wait_for_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("wait for signals")?.block_on(ended());
    Ok(())
}

async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

fn boot_id() -> anyhow::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(id.trim().to_owned())
}

/// One agent per run directory: two would each take the other's pods for strangers.
fn lock(run_dir: &Path) -> anyhow::Result<nix::fcntl::Flock<fs::File>> {
    let path = run_dir.join("agent.lock");
    let file = fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("another agent runs with {}; stop it first", run_dir.display())
        }
        Err((_, errno)) => bail!("lock {}: {errno}", path.display()),
    }
}
