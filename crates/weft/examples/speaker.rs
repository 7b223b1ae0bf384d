//! The speaker alone, with one neighbour that connects to it: for measurements beside other programs.
//! Arguments: our address, the neighbour's, our AS, the neighbour's, and the file to keep routes in.
//! Says `routes N` whenever their number is another.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::mpsc,
    time::Duration,
};

use anyhow::Context;
use weft::bgp::{Desired, Router};
use weft_bgp::{
    attrs::Family,
    config::{Config, Filter, Neighbour, Ttl},
};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("LOCAL REMOTE LOCAL_AS REMOTE_AS FILE");
    let (local, remote): (Ipv4Addr, Ipv4Addr) = (next()?.parse()?, next()?.parse()?);
    let (local_as, remote_as) = (next()?.parse()?, next()?.parse()?);
    let (heard, news) = mpsc::sync_channel(1);
    let router = Router::start(
        next()?.into(),
        Box::new(move || {
            let _ = heard.try_send(());
        }),
    )?;
    let all = Filter { rules: Vec::new(), else_pass: true };
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
        import: all.clone(),
        export: all,
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
    router.configure(Desired { config, bfd: BTreeMap::new() });
    let mut told = usize::MAX;
    while news.recv().is_ok() {
        let routes = router.known().routes.len();
        if routes != told {
            println!("routes {routes}");
            told = routes;
        }
    }
    Ok(())
}
