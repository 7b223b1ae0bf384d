//! The files themselves: each appears whole, by a rename, and is written only where it differs.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Install, Others, PLUGIN};

/// What runtimes take for a configuration.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// Of a configuration that was moved aside.
const ASIDE: &str = ".before-weft";
const NEW: &str = ".weft-new";

pub fn make_dirs(install: &Install) -> anyhow::Result<()> {
    for dir in [&install.bin_dir, &install.conf_dir] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    Ok(())
}

/// Copies the plugin's program. One that runs keeps the file that it was started from.
pub fn plugin(install: &Install, source: &Path) -> anyhow::Result<Option<String>> {
    let program = fs::read(source).with_context(|| {
        format!("read the plugin's program {} (install.plugin names another)", source.display())
    })?;
    place(&install.bin_dir.join(PLUGIN), &program, 0o755)
}

pub fn conf(install: &Install, text: &str) -> anyhow::Result<Option<String>> {
    place(&install.conf_dir.join(&install.conf_name), text.as_bytes(), 0o644)
}

fn place(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<Option<String>> {
    let same = |meta: fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o777 == mode;
    if fs::symlink_metadata(path).is_ok_and(same) && fs::read(path).is_ok_and(|has| has == bytes) {
        return Ok(None);
    }
    replace(path, bytes, mode).with_context(|| format!("write {}", path.display()))?;
    Ok(Some(format!("wrote {}", path.display())))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = beside(path, NEW);
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Files that a runtime would read, but for ours.
fn others(install: &Install) -> anyhow::Result<Vec<PathBuf>> {
    let dir = &install.conf_dir;
    let mut others = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let read = path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known));
        if read && path.file_name().is_some_and(|name| name != install.conf_name.as_str()) {
            others.push(path);
        }
    }
    others.sort();
    Ok(others)
}

/// Moves other networks' configuration aside, if that is asked for.
pub fn aside(install: &Install) -> anyhow::Result<Vec<String>> {
    if install.others == Others::Leave {
        return Ok(Vec::new());
    }
    let mut done = Vec::new();
    for path in others(install)? {
        let to = beside(&path, ASIDE);
        fs::rename(&path, &to).with_context(|| format!("move {} aside", path.display()))?;
        done.push(format!("moved {} aside, to {}", path.display(), to.display()));
    }
    Ok(done)
}

/// Whose configuration the runtime takes instead of ours.
pub fn before(install: &Install) -> anyhow::Result<Option<String>> {
    let earlier = |path: &PathBuf| path.file_name().is_some_and(|n| *n < *install.conf_name);
    Ok(others(install)?.into_iter().find(earlier).map(|path| {
        format!(
            "{} comes before {}, so the runtime takes that: move it away, give install.confName an \
             earlier name, or set install.others to aside",
            path.display(),
            install.conf_name
        )
    }))
}

/// Takes away what was put there, and gives others their names back. Says what it did.
pub fn remove(install: &Install) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    let conf = install.conf_dir.join(&install.conf_name);
    let plugin = install.bin_dir.join(PLUGIN);
    for path in [&conf, &beside(&conf, NEW), &plugin, &beside(&plugin, NEW)] {
        match fs::remove_file(path) {
            Ok(()) => done.push(format!("removed {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }
    for (from, to) in set_aside(install) {
        // Somebody may have installed that network anew meanwhile.
        if to.exists() {
            continue;
        }
        fs::rename(&from, &to).with_context(|| format!("put {} back", to.display()))?;
        done.push(format!("put {} back", to.display()));
    }
    Ok(done)
}

fn set_aside(install: &Install) -> Vec<(PathBuf, PathBuf)> {
    let names = fs::read_dir(&install.conf_dir).into_iter().flatten().flatten();
    let pair = |path: PathBuf| {
        let own = path.to_str()?.strip_suffix(ASIDE).map(PathBuf::from)?;
        Some((path, own))
    };
    names.filter_map(|entry| pair(entry.path())).collect()
}

/// True if a runtime finds nothing of weft's.
pub fn is_gone(install: &Install) -> bool {
    let conf = install.conf_dir.join(&install.conf_name);
    !conf.exists() && !install.bin_dir.join(PLUGIN).exists()
}
