//! Hearing, by inotify, that a directory's files changed.

use std::{os::fd::AsFd, path::PathBuf};

use anyhow::Context;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

pub struct Watch(Inotify);

impl Watch {
    pub fn on<'a>(dirs: impl IntoIterator<Item = &'a PathBuf>) -> anyhow::Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).context("watch files")?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        for dir in dirs {
            let watch = inotify.add_watch(dir, changes | AddWatchFlags::IN_ONLYDIR);
            watch.with_context(|| format!("watch {}", dir.display()))?;
        }
        Ok(Self(inotify))
    }

    /// Until something changed since the last look. An error once a directory itself is another.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        while matches!(poll(&mut ready, PollTimeout::NONE), Err(Errno::EINTR)) {}
        loop {
            match self.0.read_events() {
                Ok(events) => {
                    let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
                    if events.iter().any(|event| event.mask.intersects(gone)) {
                        anyhow::bail!("a directory was taken away");
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("hear of changed files"),
            }
        }
    }
}
