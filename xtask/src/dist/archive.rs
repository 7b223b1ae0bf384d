//! Archives that are the same bytes for the same files: ustar without owners or times, gzip without
//! a name.

use std::io::Write;

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};

/// What goes into an archive. A path that ends in `/` is a directory.
pub struct Member<'a> {
    pub path: &'a str,
    pub mode: u32,
    pub bytes: &'a [u8],
}

const BLOCK: usize = 512;

/// POSIX.1-1988 ustar.
pub fn tar(members: &[Member<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    for member in members {
        out.extend(head(member).with_context(|| format!("archive {}", member.path))?);
        out.extend(member.bytes);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Ok(out)
}

fn head(member: &Member<'_>) -> anyhow::Result<[u8; BLOCK]> {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| head[at..at + text.len()].copy_from_slice(text);
    ensure!(member.path.len() < 100, "the path is longer than 99 bytes");
    ensure!(member.bytes.len() < 1 << 33, "it is larger than 8 GB");
    put(0, member.path.as_bytes());
    put(100, format!("{:07o}", member.mode).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", member.bytes.len()).as_bytes());
    put(136, b"00000000000");
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, if member.path.ends_with('/') { b"5" } else { b"0" });
    put(257, b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(head)
}

pub fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    out.write_all(bytes)?;
    Ok(out.finish()?)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn tar_reads_what_we_write() {
        let members = [
            Member { path: "usr/", mode: 0o755, bytes: b"" },
            Member { path: "usr/a", mode: 0o640, bytes: b"one" },
            Member { path: "usr/b", mode: 0o755, bytes: &[7; 1000] },
        ];
        let dir = std::env::temp_dir().join(format!("weft-tar-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("x.tgz");
        let bytes = gzip(&tar(&members).unwrap()).unwrap();
        assert_eq!(bytes, gzip(&tar(&members).unwrap()).unwrap(), "the same bytes each time");
        fs::write(&file, bytes).unwrap();
        let out = Command::new("tar").args(["--utc", "-tvzf"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        fs::remove_dir_all(&dir).unwrap();
        let lines: Vec<String> = said
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 usr/",
                "-rw-r----- 0/0 3 1970-01-01 00:00 usr/a",
                "-rwxr-xr-x 0/0 1000 1970-01-01 00:00 usr/b",
            ]
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error() {
        let path = "x".repeat(100);
        let member = Member { path: &path, mode: 0, bytes: b"" };
        assert!(tar(&[member]).is_err());
    }
}
