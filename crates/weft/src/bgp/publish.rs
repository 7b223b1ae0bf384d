//! What others read of a router, made by its thread and swapped in whole; and the file from which a
//! successor goes on. What is told is in the file before.

use std::{
    fs, io, mem,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use weft_bgp::{Speaker, Time, report::NeighbourReport};

use super::{
    router::{Keep, Known},
    routes::{Courses, Routes},
};

/// Changes that come within this of each other are told as one.
const PAUSE: Duration = Duration::from_millis(20);
/// Of a large table one round takes longer: while neighbours say more, all rounds together take at most
/// this part of the time.
const SHARE: u32 = 5;
/// Changed routes that are taken up before connections are served again.
const GATHER_MAX: usize = 16 << 10;

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
    keep: Keep,
    public: Arc<Public>,
    news: Box<dyn Fn() + Send + Sync>,
    routes: Paced,
    reports: Paced,
    /// There is something to be told: nothing is before it is known what is on-link.
    configured: bool,
    /// The routes as they are told next.
    next: Routes,
    courses: Courses,
    /// Of the routes that were told last.
    version: u64,
    unkept: Option<String>,
}

/// When a kind of round may be done next: while there is nothing else to do, and while there is.
struct Paced {
    idle: Instant,
    busy: Instant,
}

impl Paced {
    fn after(&mut self, start: Instant) {
        let end = Instant::now();
        self.idle = end + PAUSE.max(end - start);
        self.busy = end + PAUSE.max((end - start) * SHARE);
    }

    fn due(&self, idle: bool) -> bool {
        Instant::now() >= if idle { self.idle } else { self.busy }
    }
}

impl Publisher {
    pub(super) fn new(keep: Keep, public: Arc<Public>, news: Box<dyn Fn() + Send + Sync>) -> Self {
        let now = Instant::now();
        let paced = || Paced { idle: now, busy: now };
        let (routes, reports) = (paced(), paced());
        Self {
            keep,
            public,
            news,
            routes,
            reports,
            configured: false,
            next: Routes::default(),
            courses: Courses::default(),
            version: 0,
            unkept: None,
        }
    }

    /// What the one before kept, which is nothing where that is lost. Until something is told, whoever asks learns that more will be.
    pub(super) fn kept(&self) -> Option<Vec<u8>> {
        let nothing = || self.keep.forwards.then(Vec::new);
        let kept = fs::read(&self.keep.file).ok().or_else(nothing)?;
        put(&self.public.known, Known { settling: true, ..Known::default() });
        Some(kept)
    }

    pub(super) fn configured(&mut self) {
        self.configured = true;
    }

    /// When there is something to be told; none: there is nothing.
    pub(super) fn due(&self, speaker: &Speaker, moved: bool) -> Option<Instant> {
        let routes = self.differs(speaker).then_some(self.routes.idle);
        let reports = moved.then_some(self.reports.idle);
        routes.into_iter().chain(reports).min()
    }

    fn differs(&self, speaker: &Speaker) -> bool {
        let settling = get(&self.public.known).settling;
        self.configured && (speaker.version() != self.version || speaker.settling() != settling)
    }

    pub(super) fn routes_due(&self, speaker: &Speaker, idle: bool) -> bool {
        self.differs(speaker) && self.routes.due(idle)
    }

    pub(super) fn reports_due(&self, idle: bool) -> bool {
        self.reports.due(idle)
    }

    /// Takes up some of what has changed; true if that was all, which is then to be told.
    pub(super) fn gather(&mut self, speaker: &mut Speaker) -> bool {
        let changed = speaker.changed(GATHER_MAX);
        let all = changed.len() < GATHER_MAX;
        for (prefix, learnt) in changed {
            let course = learnt.map(|learnt| self.courses.one(learnt.course));
            self.next.set(prefix, course);
        }
        all
    }

    pub(super) fn routes(&mut self, speaker: &Speaker) {
        let start = Instant::now();
        self.keep(speaker);
        put(&self.public.known, Known { routes: self.next.clone(), settling: speaker.settling() });
        (self.news)();
        self.version = speaker.version();
        self.routes.after(start);
    }

    pub(super) fn reports(&mut self, speaker: &Speaker, now: Time) {
        let start = Instant::now();
        put(&self.public.reports, (Some(start), speaker.neighbours(now)));
        self.reports.after(start);
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
        let written = write(&self.keep.file, &speaker.keep());
        self.unkept = written.err().map(|error| {
            // Of what is old a successor would believe too much; without any it takes nothing away at first.
            self.forget();
            let file = self.keep.file.display();
            format!(
                "write {file}: {error}; a restart now would know nothing of what BGP has learnt"
            )
        });
    }

    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.keep.file);
    }
}

/// No fsync: `/run` is memory, and what is kept is worth nothing after a boot.
fn write(path: &Path, kept: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, kept)?;
    fs::rename(&tmp, path)
}
