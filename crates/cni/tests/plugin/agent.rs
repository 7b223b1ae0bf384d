//! The agent's end of the socket, played by the test: reads frames and descriptors as the kernel
//! delivers them and does to each connection what it was told.

use std::{
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use weft_core::cni::{
    Request,
    wire::{self, HEAD},
};

/// What becomes of a connection.
#[derive(Clone)]
pub enum Heard {
    /// Read whole and answered with these bytes.
    Answer(Vec<u8>),
    /// Read whole, closed without an answer.
    Hangup,
    /// Closed before anything was read.
    HangupUnread,
    /// Read, and never answered while the caller waits.
    Silence,
}

/// One connection as it was seen.
#[derive(Debug, Default)]
pub struct Call {
    pub request: Option<Request>,
    /// Device and inode of every descriptor that came along.
    pub fds: Vec<(u64, u64)>,
}

pub struct Agent {
    calls: Arc<Mutex<Vec<Call>>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Serves one connection for each entry, then closes the door.
    pub fn listen(socket: &Path, script: Vec<Heard>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let thread = std::thread::spawn(move || {
            for heard in script {
                let (stream, _) = listener.accept().unwrap();
                serve(stream, &heard, &seen);
            }
        });
        Self { calls, thread: Some(thread) }
    }

    /// Every call, once the script is through.
    pub fn calls(mut self) -> Vec<Call> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn serve(mut stream: UnixStream, heard: &Heard, calls: &Mutex<Vec<Call>>) {
    if matches!(heard, Heard::HangupUnread) {
        calls.lock().unwrap().push(Call::default());
        return;
    }
    let call = receive(&mut stream);
    calls.lock().unwrap().push(call);
    match heard {
        Heard::Answer(bytes) => stream.write_all(bytes).unwrap(),
        // Until the caller has had enough and closes.
        Heard::Silence => assert_eq!(stream.read(&mut [0]).unwrap(), 0),
        Heard::Hangup | Heard::HangupUnread => {}
    }
}

fn receive(stream: &mut UnixStream) -> Call {
    let mut head = [0; HEAD];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut into = [IoSliceMut::new(&mut head)];
    let received =
        recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty()).unwrap();
    let mut fds = Vec::new();
    for message in received.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(raw) = message {
            fds.extend(raw);
        }
    }
    assert_eq!(received.bytes, HEAD, "the plugin sends its first bytes in one piece");
    let mut json = vec![0; wire::length(head).unwrap()];
    stream.read_exact(&mut json).unwrap();
    let fds = fds.into_iter().map(identity).collect();
    Call { request: Some(wire::decode(&json).unwrap()), fds }
}

/// Which file a descriptor is of. Closes it.
fn identity(fd: RawFd) -> (u64, u64) {
    let file = std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap();
    nix::unistd::close(fd).unwrap();
    (file.dev(), file.ino())
}
