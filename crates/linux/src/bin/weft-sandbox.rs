//! `weft-sandbox COMMAND ARGS…` runs a command in a sandbox of its own: the tests' runner.

use std::{os::unix::process::CommandExt, process::Command};

fn main() {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: weft-sandbox COMMAND ARGS…");
        std::process::exit(2)
    };
    if let Err(error) = weft_linux::sandbox::enter() {
        eprintln!("weft-sandbox: {error}");
        std::process::exit(1)
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!("weft-sandbox: run {}: {error}", program.display());
    std::process::exit(127)
}
