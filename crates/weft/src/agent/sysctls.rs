//! What the sysctls were before we set them: recorded once per boot, put back at uninstall.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use weft_core::state::Knob;

#[derive(Default, Serialize, Deserialize)]
pub struct Found {
    boot: String,
    /// Value by path below `/proc/sys`.
    values: BTreeMap<String, String>,
}

impl Found {
    /// What an earlier run of this boot found; a reboot puts the kernel's own values back.
    pub fn read(cache_dir: &Path, boot: &str) -> Self {
        let read = fs::read(cache_dir.join(FILE)).ok();
        let found: Option<Self> = read.and_then(|text| serde_json::from_slice(&text).ok());
        found
            .filter(|found| found.boot == boot)
            .unwrap_or_else(|| Self { boot: boot.to_owned(), values: BTreeMap::new() })
    }

    /// To be called before the first write to `knob`. Knobs of our own links go with them.
    pub fn note(&mut self, cache_dir: &Path, knob: &Knob) -> io::Result<()> {
        let path = knob.path();
        if knob.dev().is_some_and(weft_core::name::IfName::is_ours)
            || self.values.contains_key(&path)
        {
            return Ok(());
        }
        let value = fs::read_to_string(Path::new("/proc/sys").join(&path))?;
        self.values.insert(path, value.trim().to_owned());
        let tmp = cache_dir.join("sysctls.tmp");
        fs::write(&tmp, serde_json::to_vec_pretty(self)?)?;
        fs::rename(tmp, cache_dir.join(FILE))
    }

    /// Writes back what was found. Returns what could not be.
    pub fn put_back(&self, cache_dir: &Path) -> Vec<String> {
        // Descending: IPv6 forwarding goes off before `accept_ra` does.
        let failed = self.values.iter().rev().filter_map(|(path, value)| {
            let written = fs::write(Path::new("/proc/sys").join(path), value);
            written.err().map(|error| format!("sysctl {}: {error}", path.replace('/', ".")))
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            let _ = fs::remove_file(cache_dir.join(FILE));
        }
        failed
    }
}

const FILE: &str = "sysctls.json";
