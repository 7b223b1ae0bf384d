//! One netlink socket: a batch out, the answers in. A socket remembers the namespace in which it
//! was opened, so it may be used from any thread afterwards.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_sys::{Socket, SocketAddr, protocols};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use crate::wire::{self, Batch, Message, u32_at};

/// Of a width that every C library's `ioctl` takes.
const SIOCGIFINDEX: u16 = 0x8933;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that the kernel interrupted is read again, so often at most.
const DUMPS_MAX: u32 = 16;
/// Room for the largest datagram the kernel sends for a dump.
const RECEIVE: usize = 64 * 1024;
const BUFFERS: usize = 8 << 20;
/// How long the kernel may take for one answer: freeing thousands of links takes seconds.
const ANSWER_MAX: i64 = 60;

/// What the kernel refused, and its own words for why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) seq: u32,
    /// 0: done.
    pub(crate) errno: i32,
    pub(crate) text: String,
}

pub(crate) struct Link {
    socket: Socket,
    pub(crate) port: u32,
    seq: u32,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Absent on kernels before 4.20; dumps are then filtered by us alone.
        let _ = socket.set_netlink_get_strict_chk(true);
        grow(&socket);
        // An answer that is lost must not hold this socket's lock for ever.
        // SAFETY: the descriptor is open as long as the socket that is borrowed here.
        #[allow(unsafe_code)]
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_MAX, 0))?;
        Ok(Self { socket, port, seq: 1, buffer: vec![0; RECEIVE] })
    }

    pub(crate) fn route() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.seq)
    }

    /// Sends the batch and returns what was answered: at least the last message's fate, and every
    /// error.
    pub(crate) fn send(&mut self, mut batch: Batch) -> io::Result<Vec<Answer>> {
        if batch.count == 0 {
            return Ok(Vec::new());
        }
        batch.acknowledge_last();
        let last = batch.last_seq();
        self.exchange(&batch, |seq| seq == last)
    }

    /// Sends a transaction: a batch between a begin and an end, done whole or not at all. A kernel
    /// that refuses the whole answers the begin and nothing else (`nfnetlink_rcv_batch`).
    pub(crate) fn transact(&mut self, batch: &Batch, last: u32) -> io::Result<Vec<Answer>> {
        let begin = self.seq;
        self.exchange(batch, |seq| seq == last || seq == begin)
    }

    /// Sends a batch and reads until a request of which `ends` holds is answered. Returns the
    /// errors.
    fn exchange(&mut self, batch: &Batch, ends: impl Fn(u32) -> bool) -> io::Result<Vec<Answer>> {
        let first = self.seq;
        self.seq = batch.last_seq().wrapping_add(1);
        self.send_whole(batch.bytes())?;
        let mut answers = Vec::new();
        loop {
            let length = self.receive()?;
            for message in wire::messages(&self.buffer[..length]) {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                let answer = answer(&message);
                let seq = answer.seq;
                // What an exchange that broke off left behind is not ours.
                if seq.wrapping_sub(first) >= batch.count {
                    continue;
                }
                if answer.errno != 0 {
                    answers.push(answer);
                }
                if ends(seq) {
                    return Ok(answers);
                }
            }
        }
    }

    /// What is larger than the socket's buffer has the buffer grow, where that is allowed.
    fn send_whole(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0);
        let sent = sent.or_else(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) if resize(&self.socket, libc::SO_SNDBUFFORCE, bytes.len()) => {
                self.socket.send(bytes, 0)
            }
            _ => Err(error),
        });
        sent.map(drop)
    }

    /// Every object that a dump request returns. `each` may see objects twice: a dump that was
    /// interrupted is begun again after `restart`.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        attrs: impl Fn(&mut Batch),
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMPS_MAX {
            if let Some(objects) = self.dump_once(kind, body, &attrs, &read)? {
                return Ok(objects);
            }
        }
        Err(io::Error::other("the kernel's tables change faster than they can be read"))
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        attrs: impl Fn(&mut Batch),
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let mut batch = self.batch();
        batch.begin(kind, NLM_F_DUMP, body);
        attrs(&mut batch);
        batch.end();
        let seq = batch.last_seq();
        self.seq = seq.wrapping_add(1);
        self.socket.send(batch.bytes(), 0)?;
        let mut objects = Vec::new();
        let mut whole = true;
        loop {
            let length = self.receive()?;
            for message in wire::messages(&self.buffer[..length]).filter(|m| m.seq == seq) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => {
                        let errno = u32_at(message.body, 0).map_or(0, |code| -code.cast_signed());
                        // A table that was never used is empty: a namespace whose `lo` is down.
                        if errno != 0 && errno != libc::ENOENT {
                            return Err(io::Error::from_raw_os_error(errno));
                        }
                        return Ok(whole.then_some(objects));
                    }
                    NLMSG_ERROR => {
                        let answer = answer(&message);
                        return Err(io::Error::from_raw_os_error(answer.errno));
                    }
                    _ => objects.extend(read(&message)),
                }
            }
        }
    }

    /// One request with one answer each, in a single send. An error stands for its request.
    pub(crate) fn ask<T>(
        &mut self,
        batch: &Batch,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<Option<T>>> {
        let first = self.seq;
        self.seq = batch.last_seq().wrapping_add(1);
        let mut answers: Vec<Option<T>> = (0..batch.count).map(|_| None).collect();
        if batch.count == 0 {
            return Ok(answers);
        }
        self.socket.send(batch.bytes(), 0)?;
        let mut outstanding = batch.count;
        while outstanding > 0 {
            let length = self.receive()?;
            for message in wire::messages(&self.buffer[..length]) {
                let at = message.seq.wrapping_sub(first) as usize;
                if let Some(slot) = answers.get_mut(at) {
                    outstanding -= 1;
                    if message.kind != NLMSG_ERROR {
                        *slot = read(&message);
                    }
                }
            }
        }
        Ok(answers)
    }

    /// The number of a link of this socket's namespace; `ENODEV` if there is none of that name.
    pub(crate) fn index_of(&self, dev: &weft_core::name::IfName) -> io::Result<u32> {
        // SAFETY: all-zero bytes are a valid `ifreq`, a plain struct of the C interface.
        #[allow(unsafe_code)]
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(dev.as_str().bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: the descriptor is open and SIOCGIFINDEX writes into the request it is given;
        // the name is at most 15 bytes, so its terminating zero stands.
        #[allow(unsafe_code)]
        let (done, index) = unsafe {
            let done = libc::ioctl(self.socket.as_raw_fd(), SIOCGIFINDEX.into(), &raw mut request);
            (done, request.ifr_ifru.ifru_ifindex)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        u32::try_from(index).map_err(io::Error::other)
    }

    fn receive(&mut self) -> io::Result<usize> {
        self.socket.recv(&mut &mut self.buffer[..], 0).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::other(format!("the kernel did not answer within {ANSWER_MAX} s"))
            }
            _ => error,
        })
    }
}

/// Room for the answers to thousands of requests; without the capability, what the limit allows.
pub(crate) fn grow(socket: &Socket) {
    let forced = [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE];
    if forced.map(|option| resize(socket, option, BUFFERS)) != [true; 2] {
        for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            resize(socket, option, BUFFERS);
        }
    }
}

fn resize(socket: &Socket, option: libc::c_int, size: usize) -> bool {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open and the value is an int of the length given. A refusal
    // leaves the buffer as it was; the forced options are refused without CAP_NET_ADMIN in the
    // initial user namespace.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const size).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4),
        )
    };
    done == 0
}

/// `struct nlmsgerr` and its extended attributes.
pub(crate) fn answer(message: &Message<'_>) -> Answer {
    let errno = u32_at(message.body, 0).map_or(0, |code| -code.cast_signed());
    let mut text = String::new();
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let echoed = u32_at(message.body, 4).unwrap_or(0) as usize;
        let skip = if message.flags & NLM_F_CAPPED == 0 && errno != 0 {
            echoed.next_multiple_of(4)
        } else {
            wire::HEADER
        };
        let tlvs = message.body.get(4 + skip..).unwrap_or_default();
        let found = wire::attrs(tlvs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
        text = found.map(|(_, value)| wire::text(value)).unwrap_or_default();
    }
    Answer { seq: message.seq, errno, text }
}
