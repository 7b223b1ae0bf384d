//! What others read of a router, made by its thread and swapped in whole; and the file from which a
//! successor goes on. What is told is in the file before.

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use weft_bgp::{Speaker, Time, report::NeighbourReport};
use weft_linux::memory;

use super::router::Known;

/// Changes that come within this of each other are told as one.
const PAUSE: Duration = Duration::from_millis(20);
/// Of a large table one round takes longer: all rounds together take at most this part of the time.
const SHARE: u32 = 5;

/// So many routes leave much behind when they are told again.
const LARGE: usize = 20_000;

/// Read by others, who hold the locks for as long as it takes to copy a pointer.
#[derive(Default)]
pub(super) struct Public {
    known: Mutex<Arc<Known>>,
    reports: Mutex<Reports>,
    problems: Mutex<Arc<Vec<String>>>,
}

type Reports = Arc<(Option<Instant>, Vec<NeighbourReport>)>;

impl Public {
    pub(super) fn known(&self) -> Arc<Known> {
        get(&self.known)
    }

    pub(super) fn problems(&self) -> Vec<String> {
        get(&self.problems).to_vec()
    }

    pub(super) fn neighbours(&self) -> Vec<NeighbourReport> {
        let reports = get(&self.reports);
        let age = reports.0.map_or(Duration::ZERO, |when| when.elapsed());
        let age = u64::try_from(age.as_millis()).unwrap_or(0);
        let mut reports = reports.1.clone();
        reports.iter_mut().for_each(|report| report.since_ms += age);
        reports
    }
}

fn get<T>(of: &Mutex<Arc<T>>) -> Arc<T> {
    of.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn put<T>(of: &Mutex<Arc<T>>, value: T) {
    let value = Arc::new(value);
    // The old one is freed after the lock.
    let _old = mem::replace(&mut *of.lock().unwrap_or_else(PoisonError::into_inner), value);
}

pub(super) struct Publisher {
    file: PathBuf,
    public: Arc<Public>,
    news: Box<dyn Fn() + Send + Sync>,
    routes: Paced,
    reports: Paced,
    /// There is something to be told: nothing is before it is known what is on-link.
    configured: bool,
    /// Of the routes that were told last.
    version: u64,
    unkept: Option<String>,
}

/// When a kind of round may be done next.
struct Paced(Instant);

impl Paced {
    fn run(&mut self, round: impl FnOnce()) {
        let start = Instant::now();
        round();
        let end = Instant::now();
        self.0 = end + PAUSE.max((end - start) * SHARE);
    }
}

impl Publisher {
    pub(super) fn new(
        file: PathBuf,
        public: Arc<Public>,
        news: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let now = Instant::now();
        let (routes, reports) = (Paced(now), Paced(now));
        Self { file, public, news, routes, reports, configured: false, version: 0, unkept: None }
    }

    /// What the one before kept. Until something is told, whoever asks learns that more will be.
    pub(super) fn kept(&self) -> Option<Vec<u8>> {
        let kept = fs::read(&self.file).ok()?;
        put(&self.public.known, Known { settling: true, ..Known::default() });
        Some(kept)
    }

    pub(super) fn configured(&mut self) {
        self.configured = true;
    }

    /// When there is something to be told; none: there is nothing.
    pub(super) fn due(&self, speaker: &Speaker, moved: bool) -> Option<Instant> {
        let routes = self.differs(speaker).then_some(self.routes.0);
        let reports = moved.then_some(self.reports.0);
        routes.into_iter().chain(reports).min()
    }

    fn differs(&self, speaker: &Speaker) -> bool {
        let settling = get(&self.public.known).settling;
        self.configured && (speaker.version() != self.version || speaker.settling() != settling)
    }

    pub(super) fn routes_due(&self, speaker: &Speaker) -> bool {
        self.differs(speaker) && Instant::now() >= self.routes.0
    }

    pub(super) fn reports_due(&self) -> bool {
        Instant::now() >= self.reports.0
    }

    pub(super) fn routes(&mut self, speaker: &Speaker) {
        self.keep(speaker);
        let Self { public, routes, news, .. } = self;
        routes.run(|| {
            let learnt = speaker.learnt().into_iter();
            let known = Known {
                routes: learnt.map(|route| (route.prefix, route)).collect(),
                settling: speaker.settling(),
            };
            let large = known.routes.len() >= LARGE;
            put(&public.known, known);
            news();
            if large {
                memory::give_back();
            }
        });
        self.version = speaker.version();
    }

    pub(super) fn reports(&mut self, speaker: &Speaker, now: Time) {
        let public = &self.public;
        self.reports.run(|| put(&public.reports, (Some(Instant::now()), speaker.neighbours(now))));
    }

    pub(super) fn problems(&mut self, mut problems: Vec<String>) {
        problems.extend(self.unkept.clone());
        if *get(&self.public.problems) != problems {
            put(&self.public.problems, problems);
            (self.news)();
        }
    }

    /// A successor's view. Routes that can't be kept are told all the same: a pod that is cut off
    /// now is worse than one that may be cut off after a restart.
    pub(super) fn keep(&mut self, speaker: &Speaker) {
        let written = write(&self.file, &speaker.keep());
        self.unkept = written.err().map(|error| {
            let file = self.file.display();
            format!("write {file}: {error}; a restart now would lose what BGP has learnt")
        });
    }

    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// No fsync: `/run` is memory, and what is kept is worth nothing after a boot.
fn write(path: &Path, kept: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, kept)?;
    fs::rename(&tmp, path)
}
