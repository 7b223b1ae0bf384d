//! Network namespaces, held by file descriptor. A thread that has entered one is thrown away, so
//! nobody is ever left in the wrong place.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
};

const OWN: &str = "/proc/thread-self/ns/net";

#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// A new, empty namespace. It lives as long as something holds it.
    pub fn create() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("making a namespace panicked")))
    }

    pub fn current() -> io::Result<Self> {
        Ok(Self(File::open(OWN)?.into()))
    }

    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Runs `work` inside, on a thread of its own that ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|_| Err(io::Error::other("work in a namespace panicked")))
        })
    }

    /// Moves the calling thread inside for good. For a thread that is about to end.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Makes it visible as a file, as `ip netns` and container runtimes do.
    pub fn bind(&self, path: &Path) -> io::Result<()> {
        File::create(path)?;
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }

    /// True of two descriptors of one namespace.
    pub fn is(&self, other: &Self) -> io::Result<bool> {
        let of = |netns: &Self| fstat(&netns.0).map(|file| (file.st_dev, file.st_ino));
        Ok(of(self)? == of(other)?)
    }

    /// A number that no other namespace of this boot has (`SO_NETNS_COOKIE`, Linux 5.14).
    pub fn cookie(&self) -> io::Result<u64> {
        self.run(cookie_here)?
    }
}

/// The cookie of the calling thread's namespace.
pub fn cookie_here() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the descriptor is open, and the value points to 8 bytes, as the length says.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes charge of a descriptor that was received with a message and belongs to nobody yet.
pub fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: `recvmsg` has just made it for us, and hands it over as a bare number.
    #[allow(unsafe_code)]
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}
