//! A router alone, for `cargo xtask bench bgp`: says so once it has learnt as many routes as it was
//! told to wait for, and ends with its standard input.

use std::{
    collections::BTreeMap, io::Read, net::IpAddr, path::PathBuf, sync::mpsc, time::Duration,
};

use anyhow::Context;
use weft::bgp::{Desired, Router};
use weft_bgp::{
    attrs::Family,
    config::{Config, Filter, Neighbour, Ttl},
};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: bgp-receiver ROUTES LOCAL NEIGHBOUR AS NEIGHBOURS-AS KEEP";
    let mut word = || words.next().context(usage);
    let (routes, local, neighbour) = (word()?.parse()?, word()?.parse()?, word()?.parse()?);
    let (local_as, remote_as) = (word()?.parse()?, word()?.parse()?);
    let (told, news) = mpsc::channel();
    let router = Router::start(
        PathBuf::from(word()?),
        Box::new(move || {
            let _ = told.send(());
        }),
    )?;
    router.configure(desired(local, neighbour, local_as, remote_as)?);
    while router.known().routes.len() < routes {
        news.recv()?;
    }
    println!("all");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn desired(
    local: IpAddr,
    neighbour: IpAddr,
    local_as: u32,
    remote_as: u32,
) -> anyhow::Result<Desired> {
    let IpAddr::V4(router_id) = local else { anyhow::bail!("{local} is no IPv4 address") };
    let all = Filter { rules: Vec::new(), else_pass: true };
    let of = Neighbour {
        name: "feeder".into(),
        local_as,
        remote_as,
        local_addr: local,
        port: weft_bgp::wire::PORT,
        passive: true,
        client: false,
        families: Family::ALL.into(),
        next_hop4: Some(router_id),
        next_hop6: None,
        hold_time: 90,
        graceful_restart: Some(Duration::from_secs(120)),
        password: None,
        ttl: Ttl::OneHop,
        bfd: false,
        routes_max: u32::MAX,
        import: all.clone(),
        export: all,
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    };
    let config = Config {
        router_id,
        neighbours: BTreeMap::from([(neighbour, of)]),
        originated: BTreeMap::new(),
        connected: vec![format!("{neighbour}/24").parse::<ipnet::IpNet>()?.trunc()],
        paths_max: 8,
        deferral: Duration::from_secs(120),
    };
    Ok(Desired { config, bfd: BTreeMap::new() })
}
