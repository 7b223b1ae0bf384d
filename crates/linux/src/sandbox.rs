//! A place apart: own network, mount and PID namespace, and own user namespace where the caller
//! isn't root. Nothing inside outlives the process that entered, however that ends.
//!
//! Root gets no user namespace: he needs none, and `/proc` can be mounted in more places without.

use std::{
    ffi::{c_int, c_void},
    fs, io, process,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getegid, geteuid},
};

use crate::terminal;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("a sandbox is entered by a process with one thread, this one has {0}")]
    Threads(usize),
    #[error("make own namespaces: {error}{advice}")]
    Forbidden { error: nix::errno::Errno, advice: String },
    #[error("map this user to root inside: write {path}: {error}{advice}")]
    Map { path: &'static str, error: io::Error, advice: String },
    #[error(
        "mount {what}: {error}; in a container, /proc must not be masked \
         (docker: --security-opt systempaths=unconfined --security-opt apparmor=unconfined)"
    )]
    Mount { what: &'static str, error: nix::errno::Errno },
    #[error("{what}: {error}")]
    System { what: &'static str, error: nix::errno::Errno },
}

/// What the process that waits outside does at an interrupt that is sent to it.
#[derive(Clone, Copy)]
pub enum Interrupts {
    /// Nothing: a terminal, or who sends to the whole group, tells what runs inside too.
    Ignored,
    /// Tells what runs inside, which may so hear of one more than once.
    PassedOn,
}

/// Returns inside. The process that called waits outside, and ends as what returned here ends.
pub fn enter() -> Result<(), SandboxError> {
    enter_with(Interrupts::Ignored)
}

pub fn enter_with(interrupts: Interrupts) -> Result<(), SandboxError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    let mapped = !uid.is_root() || unshare(flags).is_err();
    if mapped {
        flags |= CloneFlags::CLONE_NEWUSER;
        unshare(flags).map_err(|error| SandboxError::Forbidden { error, advice: advice() })?;
        map("/proc/self/setgroups", "deny")?;
        map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    }
    // Outside waits; inside, the first process only collects the dead; the second goes on.
    terminal::look();
    // An interrupt is for what runs inside, from the moment that something does.
    let keyboard = [Signal::SIGINT, Signal::SIGQUIT].map(|name| (name, outside(name, interrupts)));
    if let Some(child) = split()? {
        let code = wait_for(child);
        terminal::take_back();
        process::exit(code);
    }
    mounts()?;
    if let Some(child) = split()? {
        process::exit(wait_for(child));
    }
    for (name, was) in keyboard {
        at(name, &was);
    }
    loopback_up()
}

/// The child that a waiting parent passes signals on to; 0: there is none yet.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// What is done outside, unless the signal is ignored anyway. Returns what was done at it.
fn outside(name: Signal, interrupts: Interrupts) -> SigAction {
    let handler = match interrupts {
        Interrupts::Ignored => SigHandler::SigIgn,
        Interrupts::PassedOn => SigHandler::SigAction(passed),
    };
    let was = at(name, &SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty()));
    if matches!(was.handler(), SigHandler::SigIgn) {
        at(name, &was);
    }
    was
}

/// A terminal tells every process itself; who sends it to one process means what runs inside.
extern "C" fn passed(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let child = CHILD.load(Ordering::SeqCst);
    // SAFETY: `kill` and `_exit` may be called here (signal-safety(7)); the kernel made `info`.
    #[allow(unsafe_code)]
    unsafe {
        match child {
            0 => libc::_exit(128 + signal),
            child if (*info).si_code == libc::SI_USER => drop(libc::kill(child, signal)),
            _ => {}
        }
    }
}

/// What is done at a signal from now on. Returns what was.
fn at(name: Signal, action: &SigAction) -> SigAction {
    // SAFETY: the handler above, or what the process began with.
    #[allow(unsafe_code)]
    let was = unsafe { sigaction(name, action) };
    was.unwrap_or(SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty()))
}

fn map(path: &'static str, text: &str) -> Result<(), SandboxError> {
    fs::write(path, text).map_err(|error| SandboxError::Map { path, error, advice: advice() })
}

/// The child's number for the parent. The child dies with its parent.
fn split() -> Result<Option<Pid>, SandboxError> {
    // SAFETY: the process has one thread, so the child may do whatever the parent might.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() };
    match forked.map_err(|error| SandboxError::System { what: "fork", error })? {
        ForkResult::Parent { child } => {
            CHILD.store(child.as_raw(), Ordering::SeqCst);
            Ok(Some(child))
        }
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL)
                .map_err(|error| SandboxError::System { what: "tie child to parent", error })?;
            Ok(None)
        }
    }
}

/// Collects whoever ends until `child` does; its exit code, as a shell gives it.
fn wait_for(child: Pid) -> i32 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

fn mounts() -> Result<(), SandboxError> {
    let none = None::<&str>;
    let failed = |what| move |error| SandboxError::Mount { what, error };
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("/ as private"))?;
    let bare = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), bare, none).map_err(failed("/proc"))?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), plain, Some("mode=0755"))
        .map_err(failed("a tmpfs on /run"))?;
    // Only tools that look into /sys/class/net would miss it.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), bare, none);
    Ok(())
}

fn loopback_up() -> Result<(), SandboxError> {
    crate::rig::up_here("lo").map_err(|error| SandboxError::System {
        what: "set lo up",
        error: nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    })
}

/// Which setting of this host forbids it, and how to change that.
fn advice() -> String {
    let settings = [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    for (path, forbids, allows) in settings {
        let value = fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default();
        if value.trim() == forbids {
            let name = path.replace('/', ".");
            return format!(
                "; this host has {name} = {forbids}: `sudo sysctl {name}={allows}` allows it"
            );
        }
    }
    "; this host forbids it by other means (in a container: its seccomp profile), or run as root"
        .into()
}
