//! A virtual machine that boots Debian's own kernel over this machine's files: for what the running
//! kernel lacks, and to see that what works here works on a distribution's kernel. The kernel is
//! downloaded and unpacked, not installed; nothing is written to the host but below `target/`.

mod archive;

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use archive::Archive;

use crate::run::{step, target};

/// The last kernel of Debian 12's backports of long-term kernels that has all that weft can use.
const KERNEL: &str = "linux-image-6.12-amd64";
/// What reaches the host's files, before there is a root with `modprobe`.
const FIRST_MODULES: [&str; 4] = ["virtio_pci", "9p", "9pnet_virtio", "overlay"];
const LOOK: Duration = Duration::from_millis(100);

pub struct Machine {
    kernel: PathBuf,
    initrd: PathBuf,
    modules: PathBuf,
}

impl Machine {
    /// Downloads and unpacks the kernel, once.
    pub fn prepare() -> anyhow::Result<Self> {
        let dir = target().join("vm").join(KERNEL);
        if !dir.join("initrd").exists() {
            let fresh = dir.with_extension(std::process::id().to_string());
            unpack(&fresh).with_context(|| format!("prepare {KERNEL} for the virtual machine"))?;
            // Another run may have been faster.
            let _ = fs::rename(&fresh, &dir);
            let _ = fs::remove_dir_all(&fresh);
        }
        Ok(Self {
            kernel: only(&dir.join("boot"), "vmlinuz-")?,
            initrd: dir.join("initrd"),
            modules: dir.join("lib/modules"),
        })
    }

    /// Runs a line of shell there, as root, in the same place with the same files. What it prints
    /// goes to `to` as it comes. True if it succeeded.
    pub fn run(&self, script: &str, bound: Duration, to: &mut dyn Write) -> anyhow::Result<bool> {
        let share = target().join(format!("vm/share-{}", std::process::id()));
        fs::create_dir_all(&share)?;
        let done = self.run_in(&share, script, bound, to);
        let _ = fs::remove_dir_all(&share);
        done
    }

    fn run_in(
        &self,
        share: &Path,
        script: &str,
        bound: Duration,
        to: &mut dyn Write,
    ) -> anyhow::Result<bool> {
        let (out, status) = (share.join("out"), share.join("status"));
        fs::write(&out, "")?;
        let here = share.display();
        fs::write(
            share.join("run"),
            format!(
                "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
             sh -c '{}' > {here}/out 2>&1 < /dev/null\necho $? > {here}/status\nexec busybox poweroff -f\n",
                script.replace('\'', r"'\''"),
            ),
        )?;
        let mut machine = self.start(share)?;
        let (start, mut shown) = (Instant::now(), 0);
        loop {
            let ended = machine.try_wait()?.is_some();
            shown = show_from(&out, shown, to)?;
            if ended {
                break;
            }
            if start.elapsed() > bound {
                machine.kill()?;
                machine.wait()?;
                bail!("the virtual machine was not done within {} s", bound.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        let Ok(code) = fs::read_to_string(&status) else {
            let console = fs::read_to_string(share.join("console")).unwrap_or_default();
            bail!("the virtual machine ended before its command did:\n{console}");
        };
        Ok(code.trim() == "0")
    }

    fn start(&self, share: &Path) -> anyhow::Result<Child> {
        // What runs beside it has real clocks, and waits more than it works: the machine has the rest.
        let mut machine = Command::new("chrt");
        machine.args(["--idle", "0", "qemu-system-x86_64"]);
        machine.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // One processor: emulated, a second meets code that the kernel is just patching (int3) and dies.
        machine.args(accelerator()).args(["-smp", "1", "-m", "2G"]);
        machine.arg("-serial").arg(format!("file:{}", share.join("console").display()));
        machine.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        machine.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 \
             share={} modules={}",
            share.display(),
            self.modules.display()
        ));
        let files = "local,security_model=none";
        machine.args([
            "-virtfs",
            &format!("{files},path=/,mount_tag=host,readonly=on,multidevs=remap"),
        ]);
        machine.args(["-virtfs", &format!("{files},path={},mount_tag=share", share.display())]);
        machine.stdin(Stdio::null());
        machine.spawn().context("start qemu-system-x86_64 (Debian package qemu-system-x86)")
    }
}

/// Hardware virtualisation only where the processor has it: these kernels do not boot on a
/// `/dev/kvm` without.
fn accelerator() -> &'static [&'static str] {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = cpu.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    if has && fs::OpenOptions::new().write(true).open("/dev/kvm").is_ok() {
        &["-accel", "kvm", "-cpu", "host"]
    } else {
        &["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]
    }
}

/// Passes on what was added behind `shown`. Returns the new end.
fn show_from(file: &Path, shown: u64, to: &mut dyn Write) -> anyhow::Result<u64> {
    let mut file = fs::File::open(file)?;
    file.seek(SeekFrom::Start(shown))?;
    let mut new = Vec::new();
    file.read_to_end(&mut new)?;
    to.write_all(&new)?;
    Ok(shown + new.len() as u64)
}

fn unpack(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    // The package of this name only depends on the newest one.
    let depends = said(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let newest = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let newest = newest.map(str::trim).find(|name| name.starts_with("linux-image-"));
    let newest = newest.with_context(|| format!("{KERNEL} is in no source of apt"))?;
    let download = ["download", "-q", "-o", "APT::Sandbox::User=root", newest];
    step(&format!("download {newest}"), Command::new("apt-get").args(download).current_dir(dir))?;
    let package = only(dir, "linux-image-")?;
    step("unpack it", Command::new("dpkg").arg("-x").arg(&package).arg(dir))?;
    fs::remove_file(package)?;
    let release = only(&dir.join("lib/modules"), "")?;
    let release = release.file_name().context("a kernel without modules")?.to_owned();
    let depmod = said(Command::new("/sbin/depmod").arg("-b").arg(dir).arg(&release));
    depmod.context("index its modules (Debian package kmod)")?;
    let initrd = initrd(dir, &release.to_string_lossy())?;
    Ok(fs::write(dir.join("initrd"), initrd)?)
}

/// What the kernel begins with: a shell, and the modules that reach the host's files.
fn initrd(dir: &Path, release: &str) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "modules", "host", "layer", "root"] {
        archive.directory(name);
    }
    archive.file("init", include_bytes!("init.sh"));
    let shell = fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox"));
    archive.file("bin/busybox", &shell.context("read busybox (Debian package busybox-static)")?);
    let mut order = Vec::new();
    for module in FIRST_MODULES {
        let mut ask = Command::new("/sbin/modprobe");
        let ask = ask.arg("-d").arg(dir).args(["-S", release, "--show-depends", module]);
        for line in said(ask)?.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = PathBuf::from(line.trim());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.trim_end_matches(".xz").to_owned();
            if order.contains(&name) {
                continue;
            }
            archive.file(&format!("modules/{name}"), &plain(&path)?);
            order.push(name);
        }
    }
    archive.file("modules/order", (order.join("\n") + "\n").as_bytes());
    Ok(archive.finish())
}

fn plain(module: &Path) -> anyhow::Result<Vec<u8>> {
    if module.extension().is_none_or(|ending| ending != "xz") {
        return Ok(fs::read(module)?);
    }
    let out = Command::new("xz").arg("-dc").arg(module).output();
    Ok(out.context("unpack a module (Debian package xz-utils)")?.stdout)
}

/// The one file of `dir` whose name begins so.
fn only(dir: &Path, begin: &str) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin)) {
            return Ok(path);
        }
    }
    bail!("{} has no {begin}*", dir.display())
}

/// What a command printed.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let out = command.output().with_context(|| format!("start {command:?}"))?;
    let why = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}", why.trim());
    Ok(String::from_utf8(out.stdout)?)
}
