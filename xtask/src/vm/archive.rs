//! An archive as the kernel unpacks it into its first root: cpio, "new ASCII" form
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree).

use std::fmt::Write;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut head = String::from("070701");
        // ino, mode, uid, gid, nlink, mtime, size, devices (4), length of the name, checksum.
        let fields = [self.count, mode, 0, 0, 1, 0, length(content.len()), 0, 0, 0, 0];
        for field in fields.into_iter().chain([length(name.len() + 1), 0]) {
            let _ = write!(head, "{field:08x}");
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
