//! The speaker alone, with one neighbour that connects to it: for measurements beside other programs.
//! Arguments: our address, the neighbour's, our AS, the neighbour's, and the file to keep routes in.
//! Says `routes N, known M` whenever that is another: routes that are taken of the neighbour with the best
//! chosen, and those that are kept in the file and told to whoever installs routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use weft::bgp::{Desired, Router};
use weft_bgp::{
    attrs::Family,
    config::{Config, Filter, Neighbour, Ttl},
};

const LOOK: Duration = Duration::from_millis(5);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("LOCAL REMOTE LOCAL_AS REMOTE_AS FILE");
    let (local, remote): (Ipv4Addr, Ipv4Addr) = (next()?.parse()?, next()?.parse()?);
    let (local_as, remote_as) = (next()?.parse()?, next()?.parse()?);
    let router = Router::start(PathBuf::from(next()?), Box::new(|| ()))?;
    let neighbour = Neighbour {
        name: "feeder".into(),
        local_as,
        remote_as,
        local_addr: local.into(),
        port: weft_bgp::wire::PORT,
        passive: true,
        client: false,
        families: BTreeSet::from([Family::Ipv4]),
        next_hop4: Some(local),
        next_hop6: None,
        hold_time: 90,
        graceful_restart: None,
        password: None,
        ttl: Ttl::Any,
        bfd: false,
        routes_max: u32::MAX,
        import: Filter::all(),
        export: Filter::all(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    };
    let config = Config {
        router_id: local,
        neighbours: BTreeMap::from([(IpAddr::from(remote), neighbour)]),
        originated: BTreeMap::new(),
        connected: vec![format!("{local}/24").parse()?],
        paths_max: 8,
        deferral: Duration::from_secs(120),
    };
    router.configure(Desired { config, port: weft_bgp::wire::PORT, bfd: BTreeMap::new() });
    let mut said = String::new();
    loop {
        let taken: u32 = router.neighbours().iter().flat_map(|n| n.routes_in.values()).sum();
        let say = format!("routes {taken}, known {}", router.known().routes.len());
        if say != said {
            println!("{say}");
            said = say;
        }
        std::thread::sleep(LOOK);
    }
}
