//! What a core did between two moments, and for whom. The time is that of the load's own threads
//! and of the core's softirq thread, to the nanosecond: `/proc/stat` counts in steps of 10 ms and
//! can't tell our work from a neighbour's on the same core.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, gettid},
};

/// The one core that everything runs on.
const CORE: usize = 0;

/// How this kernel counts.
struct Kernel {
    softirq_thread: Option<File>,
    /// Time in interrupts is not the interrupted thread's (`IRQ_TIME_ACCOUNTING`).
    interrupts_apart: bool,
}

static KERNEL: OnceLock<Kernel> = OnceLock::new();

/// Looks at the kernel; must be called where the whole machine's processes and files are seen.
pub fn prepare() {
    KERNEL.get_or_init(|| Kernel {
        softirq_thread: softirq_thread(),
        interrupts_apart: sh_says(
            "zgrep -qs '^CONFIG_IRQ_TIME_ACCOUNTING=y' /proc/config.gz /boot/config-$(uname -r)",
        ),
    });
}

fn softirq_thread() -> Option<File> {
    let name = format!("ksoftirqd/{CORE}\n");
    let mut all = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let found = all.find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|c| c == name));
    File::open(found?.join("schedstat")).ok()
}

fn sh_says(question: &str) -> bool {
    let asked = Command::new("sh").args(["-c", question]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// A thread of the load, pinned.
#[derive(Clone, Copy)]
pub struct Worker(Pid);

/// Pins the calling thread.
pub fn pin() -> Worker {
    let mut one = CpuSet::new();
    // A machine that forbids it measures with more noise; `elsewhere` tells.
    let _ = one.set(CORE).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
    Worker(gettid())
}

impl Worker {
    /// Time on the core in ns, softirq work done on the thread's back included unless the kernel
    /// counts that apart.
    fn ran(self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.0))?;
        first(&text)
    }
}

fn first(text: &str) -> io::Result<u64> {
    let word = text.split_whitespace().next().and_then(|word| word.parse().ok());
    word.ok_or_else(|| io::Error::other(format!("schedstat says {text:?}")))
}

/// A moment.
pub struct Mark {
    at: Instant,
    ran: u64,
    packets: Vec<u64>,
}

/// What lies between two moments.
pub struct Span {
    pub time: Duration,
    /// The load's time on the core, ns.
    pub work: u64,
    /// Share of packets that the kernel received on other cores, the whole machine's.
    pub elsewhere: f64,
}

impl Kernel {
    /// Time on the core in ns that belongs to no thread of the load.
    fn ran(&self) -> io::Result<u64> {
        let mut ran = 0;
        if let Some(file) = &self.softirq_thread {
            let mut text = [0; 64];
            let length = file.read_at(&mut text, 0)?;
            ran += first(&String::from_utf8_lossy(&text[..length]))?;
        }
        if self.interrupts_apart {
            ran += interrupts(&fs::read_to_string("/proc/stat")?);
        }
        Ok(ran)
    }
}

/// Time in interrupts and softirqs on the core, ns, from `/proc/stat` (proc(5): fields 6 and 7, in
/// hundredths of a second).
fn interrupts(stat: &str) -> u64 {
    let name = format!("cpu{CORE} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
    let ticks = line.split_whitespace().skip(5).take(2).filter_map(|word| word.parse::<u64>().ok());
    ticks.sum::<u64>() * 10_000_000
}

impl Mark {
    pub fn now(workers: &[Worker]) -> io::Result<Self> {
        let mut ran = 0;
        for worker in workers {
            ran += worker.ran()?;
        }
        if let Some(kernel) = KERNEL.get() {
            ran += kernel.ran()?;
        }
        Ok(Self { at: Instant::now(), ran, packets: packets()? })
    }

    pub fn until(&self, end: &Self) -> Span {
        let between = |core: usize| end.packets[core].saturating_sub(self.packets[core]);
        let all: u64 = (0..self.packets.len()).map(between).sum();
        let elsewhere = all - between(CORE);
        Span {
            time: end.at - self.at,
            work: end.ran.saturating_sub(self.ran),
            elsewhere: float(elsewhere) / float(all.max(1)),
        }
    }
}

/// Packets received by each core since boot; a tunnelled one counts on each of its layers.
fn packets() -> io::Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/net/softnet_stat")?;
    let received = |line: &str| {
        line.split_whitespace().next().and_then(|word| u64::from_str_radix(word, 16).ok())
    };
    Ok(text.lines().filter_map(received).collect())
}

/// What is counted here stays far below 2^52.
pub fn float(n: u64) -> f64 {
    let (high, low) = (n >> 32, n & 0xffff_ffff);
    let part = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    part(high).mul_add(4_294_967_296.0, part(low))
}

#[cfg(test)]
mod tests {
    #[test]
    fn interrupts_of_the_one_core() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 60 7 8 0 0\ncpu1 9 9 9 9 9 9 9 9 0 0\n";
        assert_eq!(super::interrupts(stat), 670_000_000);
    }
}
