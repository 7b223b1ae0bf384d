//! What others hold of a router: they tell it what to be, and read what it knows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use weft_bgp::{bfd, config::Config, report::NeighbourReport};

use super::{
    detector::Detector,
    driver::Driver,
    publish::{Public, Publisher},
    routes::Routes,
};

/// The handle. The threads end with it.
pub struct Router {
    detector: Option<Detector>,
    mail: Mailbox,
    public: Arc<Public>,
    thread: Option<JoinHandle<()>>,
}

/// What a router is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub config: Config,
    /// Where neighbours connect to.
    pub port: u16,
    /// Neighbours that BFD watches over.
    pub bfd: BTreeMap<IpAddr, bfd::Settings>,
}

/// What it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub routes: Routes,
    /// After a restart, until all neighbours have said their routes again: what is missing is not
    /// gone yet.
    pub settling: bool,
}

/// Where a speaker's successor finds what it knew.
pub struct Keep {
    pub file: PathBuf,
    /// Packets go on being forwarded here since an earlier process, though its file may be lost:
    /// neighbours are told so, and keep our routes until we have said them again (RFC 4724, 4.1).
    pub forwards: bool,
}

impl From<PathBuf> for Keep {
    fn from(file: PathBuf) -> Self {
        Self { file, forwards: false }
    }
}

impl Router {
    /// Starts the threads, in the caller's network namespace. What it learns is kept in a file,
    /// written before `news` is told, so that a successor goes on from there. `news` is told
    /// on BGP's thread, which it must not hold up: what is known, or a problem, has changed.
    pub fn start(keep: impl Into<Keep>, news: Box<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let keep = keep.into();
        let (sender, letters) = mpsc::channel();
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let mail = Mailbox { sender, bell: Arc::new(bell) };
        let heard = mail.clone();
        let found = Box::new(move |peer, state| heard.post(Mail::Bfd(peer, state)));
        let detector = Some(Detector::start(keep.file.with_extension("bfd"), found)?);
        let public = Arc::new(Public::default());
        let publisher = Publisher::new(keep, public.clone(), news);
        let driver = Driver::new(publisher, letters, ear);
        let thread = thread::Builder::new().name("bgp".into()).spawn(move || driver.run())?;
        Ok(Self { detector, mail, public, thread: Some(thread) })
    }

    /// What is to be from now on. Returns at once; sockets that can't be had are tried again, and are
    /// told as problems.
    pub fn configure(&self, desired: Desired) {
        let watched = desired.bfd.clone();
        self.mail.post(Mail::Configure(Box::new(desired)));
        self.detector.iter().for_each(|detector| detector.configure(watched.clone()));
    }

    pub fn known(&self) -> Arc<Known> {
        self.public.known()
    }

    pub fn neighbours(&self) -> Vec<NeighbourReport> {
        self.public.neighbours()
    }

    /// What BFD says of the neighbours that it watches over.
    pub fn watched(&self) -> BTreeMap<IpAddr, bfd::Report> {
        self.detector.as_ref().map(Detector::reports).unwrap_or_default()
    }

    /// What keeps it from its work (port 179 taken by another program, …), in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.public.problems();
        problems.extend(self.detector.iter().flat_map(Detector::problems));
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            problems.push("BGP's thread has died, which is a bug; restart the agent".into());
        }
        problems
    }

    /// Says goodbye and waits until it is said: `for_good`, and neighbours forget our routes at once;
    /// else they keep them as agreed.
    pub fn stop(mut self, for_good: bool) {
        self.mail.post(Mail::Stop { for_good });
        self.wait();
        if let Some(detector) = self.detector.take() {
            detector.stop(for_good);
        }
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Router {
    /// Without a goodbye, as if it were killed.
    fn drop(&mut self) {
        self.mail.post(Mail::End);
        self.wait();
    }
}

/// What the thread is told by others.
pub(super) enum Mail {
    Configure(Box<Desired>),
    Bfd(IpAddr, Result<(), String>),
    Stop { for_good: bool },
    End,
}

#[derive(Clone)]
pub(super) struct Mailbox {
    sender: Sender<Mail>,
    bell: Arc<UnixStream>,
}

impl Mailbox {
    pub(super) fn post(&self, mail: Mail) {
        // It has died, or the bell is ringing already.
        let _ = self.sender.send(mail);
        let _ = (&*self.bell).write(&[0]);
    }
}
