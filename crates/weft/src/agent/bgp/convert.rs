//! What core decides, in the words of the speaker, and what the speaker learnt in core's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use weft_bgp::{
    attrs::{self, Family},
    bfd,
    config::{self, Config},
};
use weft_core::{
    bgp::{Filter, Neighbour, Originated, Settings, Speaker, Ttl},
    learnt::{Learnt, Route},
};

use super::fresh::Fresh;
use crate::bgp::{Desired, Known};

/// How long nothing is taken for gone after a restart, where graceful restart says nothing else.
const DEFERRAL: Duration = Duration::from_secs(120);

/// All but what depends on the time before this process.
pub fn learnt(known: &Known, fresh: &Fresh, aggregates: bool) -> Learnt {
    let routes = known.routes.iter().map(|(dst, learnt)| {
        let hops = learnt.hops.iter().map(|hop| hop.via).collect();
        (*dst, Route { hops, why: learnt.why.clone(), fresh: fresh.has(dst) })
    });
    Learnt { routes: routes.collect(), aggregates, ..Learnt::default() }
}

/// A neighbour whose password is not known is left out: it would be spoken to without.
pub fn desired(
    speaker: &Speaker,
    settings: &Settings,
    said: BTreeMap<IpNet, Originated>,
    passwords: &BTreeMap<PathBuf, String>,
) -> Desired {
    let mut neighbours = BTreeMap::new();
    let mut watched = BTreeMap::new();
    for (addr, neighbour) in &speaker.neighbours {
        let password = neighbour.password_file.as_ref().map(|file| passwords.get(file));
        if password == Some(None) {
            continue;
        }
        neighbours.insert(*addr, of(neighbour, password.flatten().cloned()));
        watched.extend(watch(neighbour).map(|settings| (*addr, settings)));
    }
    let restart = settings.graceful_restart.on();
    let config = Config {
        router_id: speaker.router_id,
        neighbours,
        originated: said.into_iter().map(|(dst, how)| (dst, originated(how))).collect(),
        connected: speaker.connected.clone(),
        paths_max: settings.paths.into(),
        deferral: restart.map_or(DEFERRAL, |restart| Duration::from_secs(restart.seconds.into())),
    };
    Desired { config, port: settings.port, bfd: watched }
}

fn of(neighbour: &Neighbour, password: Option<String>) -> config::Neighbour {
    let (communities, large_communities) =
        marks(&neighbour.communities, &neighbour.large_communities);
    config::Neighbour {
        name: neighbour.name.clone(),
        local_as: neighbour.local_as,
        remote_as: neighbour.remote_as,
        local_addr: neighbour.local_addr,
        port: neighbour.port,
        passive: neighbour.passive,
        client: neighbour.client,
        families: BTreeSet::from(Family::ALL),
        next_hop4: neighbour.next_hop4,
        next_hop6: neighbour.next_hop6,
        hold_time: neighbour.hold_seconds,
        graceful_restart: neighbour.graceful_restart,
        password,
        ttl: match neighbour.ttl {
            Ttl::Any => config::Ttl::Any,
            Ttl::OneHop => config::Ttl::OneHop,
            Ttl::Hops(hops) => config::Ttl::Hops(hops),
            Ttl::Security(hops) => config::Ttl::Security(hops),
        },
        bfd: neighbour.bfd.is_some(),
        routes_max: neighbour.maximum_routes,
        import: filter(&neighbour.import),
        export: config::Filter::all(),
        communities,
        large_communities,
        own_only: neighbour.own_only,
    }
}

fn watch(neighbour: &Neighbour) -> Option<bfd::Settings> {
    let bfd = neighbour.bfd?;
    Some(bfd::Settings {
        local: neighbour.local_addr,
        interval: Duration::from_millis(bfd.interval_ms.into()),
        multiplier: bfd.multiplier,
        multihop: neighbour.multihop,
        on_link: neighbour.on_link,
    })
}

fn filter(filter: &Filter) -> config::Filter {
    let rules = filter.rules.iter().map(|rule| config::Rule {
        within: rule.within,
        least: rule.least,
        most: rule.most,
        pass: rule.pass,
    });
    config::Filter { rules: rules.collect(), else_pass: filter.else_pass }
}

fn originated(how: Originated) -> config::Originated {
    let (communities, large_communities) = marks(&how.communities, &how.large_communities);
    let external_only = how.external_only;
    config::Originated { communities, large_communities, med: None, external_only }
}

fn marks(
    communities: &[weft_core::bgp::Community],
    large: &[weft_core::bgp::LargeCommunity],
) -> (Vec<attrs::Community>, Vec<attrs::LargeCommunity>) {
    let communities = communities.iter().map(|community| attrs::Community(community.0));
    let large = large.iter().map(|large| attrs::LargeCommunity(large.0, large.1, large.2));
    (communities.collect(), large.collect())
}
