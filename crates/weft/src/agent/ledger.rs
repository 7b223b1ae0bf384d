//! The ledger: every attachment of this node, one file each in `RUNDIR/attachments`, and the
//! addresses that they hold. Lives in `/run`, as the namespaces that it describes do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    ipam::{NoAddress, Pool, Reserve},
    name::{NetworkName, fnv1a},
    network::SCHEMA,
};

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("write the attachment's record {path}: {error}")]
    Write { path: PathBuf, error: io::Error },
    #[error("read the ledger {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
}

pub struct Ledger {
    dir: PathBuf,
    attachments: BTreeMap<AttachmentId, Attachment>,
    pools: BTreeMap<NetworkName, Pool>,
    /// The pools' clock begins here.
    began: Instant,
    /// Addresses of shared networks that were given before it was known that nobody has them.
    unprobed: u64,
    /// Records that this version can't read: kept, and said.
    unread: BTreeMap<PathBuf, String>,
}

impl Ledger {
    pub fn open(run_dir: &Path) -> Result<Self, LedgerError> {
        let dir = run_dir.join("attachments");
        let failed = |error| LedgerError::Read { path: dir.clone(), error };
        fs::create_dir_all(&dir).map_err(failed)?;
        let mut ledger = Self {
            dir: dir.clone(),
            attachments: BTreeMap::new(),
            pools: BTreeMap::new(),
            began: Instant::now(),
            unprobed: 0,
            unread: BTreeMap::new(),
        };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                // Never was a record: its writer died before the rename.
                let _ = fs::remove_file(&path);
                continue;
            }
            match read(&path) {
                Ok(attachment) => {
                    drop(ledger.attachments.insert(attachment.id.clone(), attachment))
                }
                Err(why) => drop(ledger.unread.insert(path, why)),
            }
        }
        let networks: BTreeSet<_> =
            ledger.attachments.values().map(|a| a.network.clone()).collect();
        for network in networks {
            let ours = ledger.attachments.values().filter(|a| a.network == network);
            let pool = Pool::new(ours.flat_map(|attachment| attachment.addrs.iter().copied()));
            ledger.pools.insert(network, pool);
        }
        Ok(ledger)
    }

    pub fn unread(&self) -> impl Iterator<Item = (&PathBuf, &String)> {
        self.unread.iter()
    }
    /// There is a record of it, but one that can't be read.
    pub fn is_unread(&self, id: &AttachmentId) -> bool {
        self.unread.contains_key(&self.path(id))
    }
    pub fn get(&self, id: &AttachmentId) -> Option<&Attachment> {
        self.attachments.get(id)
    }
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> + Clone {
        self.attachments.values()
    }
    pub fn has_pods(&self, network: &NetworkName) -> bool {
        self.attachments.values().any(|pod| pod.network == *network)
    }
    /// True if some link is in its pod's namespace alone.
    pub fn has_children(&self) -> bool {
        self.attachments.values().any(|pod| pod.host_end.is_none())
    }
    pub fn pools(&self) -> impl Iterator<Item = (&NetworkName, &Pool)> {
        self.pools.iter()
    }

    /// A network's addresses, if any were ever given, and what time it is for them.
    pub fn timed_pool(&mut self, network: &NetworkName) -> Option<(&mut Pool, Duration)> {
        let now = self.began.elapsed();
        self.pools.get_mut(network).map(|pool| (pool, now))
    }
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }
    pub fn note_unprobed(&mut self) {
        self.unprobed += 1;
    }
    pub fn unprobed(&self) -> u64 {
        self.unprobed
    }

    pub fn set_blocks(&mut self, network: &NetworkName, blocks: &[IpNet], reserve: &Reserve) {
        self.pool(network).set_blocks(blocks, reserve);
    }

    /// The addresses of a network, as they are given and taken.
    pub fn pool(&mut self, network: &NetworkName) -> &mut Pool {
        self.pools.entry(network.clone()).or_default()
    }

    /// Where records can't be read, what the kernel holds for pods tells which addresses are taken.
    pub fn reserve(&mut self, network: &NetworkName, held: impl Iterator<Item = IpAddr>) {
        if self.unread.is_empty() {
            return;
        }
        let known: BTreeSet<IpAddr> =
            self.attachments.values().flat_map(|pod| pod.addrs.iter().copied()).collect();
        let pool = self.pool(network);
        // Already taken is as good.
        held.filter(|addr| !known.contains(addr)).for_each(|addr| drop(pool.lease_this(addr)));
    }

    /// True if a pod has the address, or a call is about to give it to one.
    pub fn holds(&self, network: &NetworkName, addr: IpAddr) -> bool {
        self.pools.get(network).is_some_and(|pool| pool.holds(addr))
    }

    /// Takes addresses, one per family or exactly those asked for; those that are `fixed` are of no
    /// block. All or none.
    pub fn lease(
        &mut self,
        network: &NetworkName,
        families: &[bool],
        asked: &[IpAddr],
        fixed: &[IpAddr],
    ) -> Result<Vec<IpAddr>, NoAddress> {
        let now = self.began.elapsed();
        let pool = self.pools.entry(network.clone()).or_default();
        let shared = pool.is_shared();
        let mut unprobed = 0;
        let mut leased = Vec::new();
        let mut one = |lease: &mut dyn FnMut(&mut Pool) -> Result<IpAddr, NoAddress>| {
            lease(pool).map(|addr| leased.push(addr)).inspect_err(|_| {
                leased.drain(..).for_each(|addr| pool.release(addr));
            })
        };
        for addr in asked {
            one(&mut |pool| pool.lease_this(*addr).map(|()| *addr))?;
        }
        for addr in fixed {
            one(&mut |pool| pool.lease_fixed(*addr).map(|()| *addr))?;
        }
        let named = |ipv4: bool| asked.iter().chain(fixed).any(|addr| addr.is_ipv4() == ipv4);
        let unasked = families.iter().filter(|ipv4| !named(**ipv4));
        for ipv4 in unasked {
            one(&mut |pool| {
                let (addr, known) = pool.lease_best(*ipv4, now)?;
                unprobed += u64::from(shared && !known);
                Ok(addr)
            })?;
        }
        self.unprobed += unprobed;
        Ok(leased)
    }

    /// Gives back addresses that no attachment was recorded with.
    pub fn release(&mut self, network: &NetworkName, addrs: &[IpAddr]) {
        if let Some(pool) = self.pools.get_mut(network) {
            addrs.iter().for_each(|addr| pool.release(*addr));
        }
    }

    /// The pod goes. A file system that is full must not keep it: what would be written then goes
    /// on being known to this process, and the file is removed in the end.
    pub fn doom(&mut self, id: &AttachmentId) {
        if let Err(error) = self.set_phase(id, Phase::Doomed) {
            tracing::warn!(%error, "the end of a pod could not be written down");
            if let Some(pod) = self.attachments.get_mut(id) {
                pod.phase = Phase::Doomed;
            }
        }
    }

    /// What has become of a pod's lease: known even where it can't be written down.
    pub fn stand(&mut self, pod: Attachment) {
        if let Err(error) = self.record(pod.clone()) {
            tracing::warn!(%error, "how a pod's lease stands could not be written down");
            self.attachments.insert(pod.id.clone(), pod);
        }
    }

    /// Writes the record, then knows it: after a crash the file is what counts.
    pub fn record(&mut self, attachment: Attachment) -> Result<(), LedgerError> {
        let path = self.path(&attachment.id);
        write(&path, &attachment).map_err(|error| LedgerError::Write { path, error })?;
        self.unread.remove(&self.path(&attachment.id));
        self.attachments.insert(attachment.id.clone(), attachment);
        Ok(())
    }

    pub fn set_phase(&mut self, id: &AttachmentId, phase: Phase) -> Result<(), LedgerError> {
        match self.attachments.get(id) {
            Some(known) if known.phase != phase => {
                self.record(Attachment { phase, ..known.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Forgets the attachment and frees its addresses. Only for one whose link is gone.
    pub fn close(&mut self, id: &AttachmentId) -> Result<(), LedgerError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LedgerError::Write { path, error });
            }
            _ => {}
        }
        self.unread.remove(&path);
        if let Some(attachment) = self.attachments.remove(id) {
            self.release(&attachment.network, &attachment.addrs);
        }
        Ok(())
    }

    fn path(&self, id: &AttachmentId) -> PathBuf {
        let short: String = id.container.chars().take(40).collect();
        let hash = fnv1a(&[&id.cni, &id.container, id.ifname.as_str()]);
        self.dir.join(format!("{short}-{}-{hash:016x}.json", id.ifname))
    }
}

fn read(path: &Path) -> Result<Attachment, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let attachment: Attachment =
        serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if attachment.schema > SCHEMA {
        return Err(format!("schema {} is newer than this version's {SCHEMA}", attachment.schema));
    }
    Ok(attachment)
}

/// No fsync: `/run` is memory, and lives no longer than what the record describes.
fn write(path: &Path, attachment: &Attachment) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = fs::File::create(&tmp)?;
    file.write_all(&serde_json::to_vec_pretty(attachment)?)?;
    drop(file);
    fs::rename(&tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, addrs: &[IpAddr]) -> Attachment {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "cni": "net", "container": container, "ifname": "eth0",
            "phase": "opened", "network": "default", "attach": "veth", "runtime": "test",
            "netns": "/run/netns/x", "cookie": 1, "host_end": "weft0", "mac": "02:00:00:00:00:01",
            "addrs": addrs, "default_route": true, "ofTomorrow": {"kept": [1, 2]},
        }))
        .unwrap()
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weft-ledger-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_was_recorded_is_known_after_a_restart_and_its_addresses_stay_taken() {
        let (dir, network): (_, NetworkName) = (dir("restart"), "default".parse().unwrap());
        let blocks: [IpNet; 1] = ["10.1.0.0/29".parse().unwrap()];
        let mut ledger = Ledger::open(&dir).unwrap();
        ledger.set_blocks(&network, &blocks, &Reserve::default());
        let addrs = ledger.lease(&network, &[true], &[], &[]).unwrap();
        let pod = attachment("c1", &addrs);
        ledger.record(pod.clone()).unwrap();
        fs::write(dir.join("attachments/half.tmp"), "{").unwrap();

        let mut again = Ledger::open(&dir).unwrap();
        again.set_blocks(&network, &blocks, &Reserve::default());
        assert_eq!(again.get(&pod.id), Some(&pod), "unknown fields included");
        assert_ne!(again.lease(&network, &[true], &[], &[]).unwrap(), addrs);
        again.close(&pod.id).unwrap();
        assert_eq!(Ledger::open(&dir).unwrap().attachments().count(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lease_is_all_or_nothing() {
        let (dir, network): (_, NetworkName) = (dir("all"), "default".parse().unwrap());
        let mut ledger = Ledger::open(&dir).unwrap();
        ledger.set_blocks(&network, &["10.1.0.0/29".parse().unwrap()], &Reserve::default());
        assert_eq!(
            ledger.lease(&network, &[true, false], &[], &[]),
            Err(NoAddress::NoBlock { ipv4: false })
        );
        assert_eq!(ledger.pools().map(|(_, pool)| pool.taken()).sum::<usize>(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_record_of_a_newer_version_is_kept_and_said() {
        let dir = dir("newer");
        fs::create_dir_all(dir.join("attachments")).unwrap();
        let path = dir.join("attachments/x.json");
        let text = r#"{"schema":9,"cni":"n","container":"c","ifname":"eth0"}"#;
        fs::write(&path, text).unwrap();
        let ledger = Ledger::open(&dir).unwrap();
        assert_eq!(ledger.unread().count(), 1);
        assert_eq!(fs::read_to_string(path).unwrap(), text);
        fs::remove_dir_all(dir).unwrap();
    }
}
