//! The floor of `cargo xtask bench cni`: a bare program that does the netlink work of one ADD or
//! DEL and nothing else. `weft-floor add NETNS INDEX DEV ADDRESS`, `weft-floor del DEV`.

use std::path::Path;

use weft_linux::{Netns, rig};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["add", netns, index, dev, addr] => {
            let (Ok(index), Ok(addr)) = (index.parse(), addr.parse()) else { usage() };
            Netns::open(Path::new(netns)).and_then(|netns| rig::bare_add(&netns, index, dev, addr))
        }
        ["del", dev] => rig::bare_del(dev),
        _ => usage(),
    };
    if let Err(error) = done {
        eprintln!("weft-floor: {error}");
        std::process::exit(1)
    }
}

fn usage() -> ! {
    eprintln!("usage: weft-floor add NETNS INDEX DEV ADDRESS | weft-floor del DEV");
    std::process::exit(2)
}
