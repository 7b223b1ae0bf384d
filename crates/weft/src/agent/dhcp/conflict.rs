//! Whether somebody has what a server has just given (RFC 2131, 3.1, step 5): asked by ARP probes (RFC 5227),
//! in less time than that allows its clients, since a runtime waits.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use weft_core::{attachment::Attachment, name::Mac};
use weft_linux::{Kernel, Neighbour};

use super::super::Agent;

const PROBES: usize = 3;
const BETWEEN: Duration = Duration::from_millis(40);

/// Who has the address, or is about to take it.
pub(super) fn owner(
    agent: &Agent,
    pod: &Attachment,
    there: &Kernel,
    addr: Ipv4Addr,
) -> io::Result<Option<Mac>> {
    let kind = pod.attach.kind();
    // Answers to a MAC address that pods share go to the device that it is of.
    let shared = kind.parent().filter(|_| kind.has_nics_mac() && !kind.alone());
    let ear = match shared {
        Some(parent) => agent.kernel.solicitor(&parent.dev())?,
        None => there.solicitor(&pod.id.ifname)?,
    };
    let Some(ear) = ear else { return Ok(None) };
    let addr = IpAddr::from(addr);
    let theirs = |said: &Neighbour| (said.addr == addr && said.mac != ear.mac).then_some(said.mac);
    let mut found = None;
    for _ in 0..PROBES {
        ear.probe(addr)?;
        found = ear.wait(BETWEEN, theirs)?;
        if found.is_some() {
            break;
        }
    }
    agent.leases.close(ear);
    Ok(found)
}
