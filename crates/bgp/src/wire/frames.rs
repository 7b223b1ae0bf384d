//! Messages in a stream of bytes, and their header (RFC 4271, 4.1 and 6.1).

use super::{
    HEADER, MESSAGE_MAX, Notification,
    message::kind,
    notification::{code, header_error},
};

/// Cuts a stream into messages. Holds at most one message that is not complete.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// So many of them were cut already. They are removed when no further message is complete: what
    /// is left is moved then, and is less than a message.
    done: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is complete, as it came, header and all; the error is what to send to
    /// whom sent no message. Its header is looked at as soon as it is there. After an error there is
    /// no next message: the same error comes again.
    pub fn cut(&mut self) -> Result<Option<Vec<u8>>, Notification> {
        let waiting = &self.bytes[self.done..];
        let Some(header) = waiting.first_chunk() else { return Ok(self.wait()) };
        let length = check(header)?;
        let Some(message) = waiting.get(..length) else { return Ok(self.wait()) };
        let message = message.to_vec();
        self.done += length;
        Ok(Some(message))
    }

    /// One of many neighbours, most of which are silent, holds no memory for what it once said.
    fn wait(&mut self) -> Option<Vec<u8>> {
        self.bytes.drain(..self.done);
        self.done = 0;
        let room = if self.bytes.is_empty() { 0 } else { MESSAGE_MAX };
        self.bytes.shrink_to(room);
        None
    }
}

/// The message's length, if the header is one. A ROUTE-REFRESH of a wrong length has an error of its
/// own (RFC 7313, 5), which holds the whole message and so has to wait for it.
pub(super) fn check(header: &[u8; HEADER]) -> Result<usize, Notification> {
    if header[..16] != [0xff; 16] {
        return Err(Notification::new(code::HEADER, header_error::NOT_SYNCHRONIZED));
    }
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    if !(HEADER..=MESSAGE_MAX).contains(&length) {
        return Err(bad_length(length));
    }
    let fits = match header[18] {
        kind::OPEN => length >= 29,
        kind::UPDATE => length >= 23,
        kind::NOTIFICATION => length >= 21,
        kind::KEEPALIVE => length == HEADER,
        kind::ROUTE_REFRESH => true,
        other => {
            return Err(Notification::with(code::HEADER, header_error::BAD_TYPE, &[other]));
        }
    };
    if fits { Ok(length) } else { Err(bad_length(length)) }
}

/// The data is the Length field as it came.
pub(super) fn bad_length(length: usize) -> Notification {
    let field = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    Notification::with(code::HEADER, header_error::BAD_LENGTH, &field)
}
