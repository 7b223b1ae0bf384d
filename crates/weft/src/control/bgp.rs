//! BGP as the operator sees it: neighbours, what they said and what became of it; and what he says of it
//! himself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{Json, extract::State, http::StatusCode, response::Response};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_bgp::{
    bfd,
    report::{Learnt, NeighbourReport},
};
use weft_core::{
    bgp::{Settings, check},
    name::{NetworkName, NodeName},
    network::SCHEMA,
    view::BGP_KEY,
};

use super::{refused, reported};
use crate::agent::{Agent, config::from_value};

#[derive(Serialize, Deserialize)]
pub struct BgpStatus {
    /// What `weft status` says of BGP too.
    #[serde(default)]
    pub problems: Vec<String>,
    /// None: no network is joined by BGP, and nobody is spoken to.
    pub speaker: Option<SpeakerStatus>,
    pub neighbours: Vec<NeighbourReport>,
    /// What BFD says of those that it watches over.
    #[serde(default)]
    pub bfd: BTreeMap<IpAddr, bfd::Report>,
    /// Prefixes that were learnt.
    pub routes: usize,
    /// After a restart: neighbours have yet to say their routes again, and those of before stay.
    pub settling: bool,
    /// Learnt routes that contradict what is known here, and why.
    pub refused: BTreeMap<IpNet, String>,
    /// Learnt routes that lead nowhere for now, and why.
    pub unresolved: BTreeMap<IpNet, String>,
}

#[derive(Serialize, Deserialize)]
pub struct SpeakerStatus {
    pub asn: u32,
    #[serde(rename = "routerId")]
    pub router_id: Ipv4Addr,
}

pub fn status(agent: &Agent) -> BgpStatus {
    let (known, serving) = (agent.bgp_known(), agent.serving());
    let beside = &serving.host.learnt;
    let nowhere = known.routes.values().filter(|learnt| learnt.hops.is_empty());
    let nowhere = nowhere.map(|learnt| (learnt.prefix, learnt.why.clone().unwrap_or_default()));
    let mut unresolved: BTreeMap<IpNet, String> = nowhere.collect();
    unresolved.extend(beside.unresolved.clone());
    unresolved.retain(|dst, _| !beside.refused.contains_key(dst));
    BgpStatus {
        problems: agent.bgp_problems(),
        speaker: agent
            .bgp_speaker()
            .map(|speaker| SpeakerStatus { asn: speaker.asn, router_id: speaker.router_id }),
        neighbours: agent.bgp_neighbours(),
        bfd: agent.bgp_watched(),
        routes: known.routes.len(),
        settling: known.settling,
        refused: beside.refused.clone(),
        unresolved,
    }
}

/// One learnt route, and what it is good for here.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearntRoute {
    #[serde(flatten)]
    pub learnt: Learnt,
    /// Whose block it is, where it is a node's.
    pub network: Option<NetworkName>,
    pub node: Option<NodeName>,
    /// It is in the kernel's table, or on its way there.
    pub used: bool,
    /// Why not, where more is to be said.
    pub left_out: Option<String>,
}

pub fn routes(agent: &Agent) -> Vec<LearntRoute> {
    let (known, serving, shown) = (agent.bgp_known(), agent.serving(), agent.shown());
    let beside = &serving.host.learnt;
    let claims: BTreeMap<IpNet, _> = shown
        .view
        .claims
        .iter()
        .map(|((network, block), claim)| (*block, (network, &claim.node)))
        .collect();
    let legs: std::collections::BTreeSet<IpNet> = serving
        .networks
        .values()
        .flat_map(|here| here.stage.choices.values())
        .flat_map(|peer| peer.each())
        .filter_map(|(_, choice)| choice.path.as_ref())
        .flat_map(|path| path.legs.iter().map(|leg| leg.block))
        .collect();
    let route = |learnt: Learnt| {
        let dst = learnt.prefix;
        let whose = claims.get(&dst);
        let why = beside.refused.get(&dst).or(beside.unresolved.get(&dst)).or(learnt.why.as_ref());
        let left_out = why.cloned();
        LearntRoute {
            learnt,
            network: whose.map(|(network, _)| (*network).clone()),
            node: whose.map(|(_, node)| (*node).clone()),
            used: beside.routes.contains_key(&dst) || legs.contains(&dst),
            left_out,
        }
    };
    let mut routes: Vec<LearntRoute> = known.routes.values().map(route).collect();
    routes.sort_by_key(|route| route.learnt.prefix);
    routes
}

/// Which sessions a route was learnt from, in words; of the longest that covers the address.
pub(super) fn learnt_from(agent: &Agent, addr: IpAddr) -> Option<String> {
    let known = agent.bgp_known();
    let covers = known.routes.values().filter(|learnt| learnt.prefix.contains(&addr));
    let learnt = covers.max_by_key(|learnt| learnt.prefix.prefix_len())?;
    let neighbours = agent.bgp_neighbours();
    let mut from: Vec<IpAddr> = learnt.hops.iter().map(|hop| hop.from).collect();
    from.dedup();
    let session = |from: IpAddr| {
        let of = neighbours.iter().find(|neighbour| neighbour.addr == Some(from));
        of.map_or_else(
            || from.to_string(),
            |of| format!("{} (AS {}, {from})", of.name, of.remote_as),
        )
    };
    let from: Vec<String> = from.into_iter().map(session).collect();
    let path = match learnt.as_path.as_str() {
        "" => ", of our own AS".to_owned(),
        path => format!(", AS path {path}"),
    };
    let stale = if learnt.stale { "; kept from before a restart" } else { "" };
    Some(format!("{} learnt from {}{path}{stale}", learnt.prefix, from.join(" and ")))
}

pub(super) fn settings(agent: &Agent) -> Settings {
    agent.shown().view.bgp.clone()
}

/// Checks what is said of BGP beside the nodes that there are before it is written.
pub(super) async fn apply(State(agent): State<Arc<Agent>>, Json(written): Json<Value>) -> Response {
    let checked = match &written {
        Value::Object(_) => from_value::<Settings>(written).map_err(|error| format!("{error:#}")),
        _ => Err("write fields with their values, such as `asn: 64512`".to_owned()),
    };
    let checked = checked.and_then(|settings| {
        if settings.schema > SCHEMA {
            return Err(format!(
                "schema {} is newer than this version's {SCHEMA}",
                settings.schema
            ));
        }
        check(&settings, &agent.shown().view)?;
        serde_json::to_vec(&settings).map_err(|error| error.to_string())
    });
    let value = match checked {
        Ok(value) => value,
        Err(why) => {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, format!("settings of BGP: {why}"));
        }
    };
    match agent.store.put(BGP_KEY, value).await {
        Ok(revision) => reported(json!({"revision": revision})),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// From here on the defaults stand.
pub(super) async fn reset(State(agent): State<Arc<Agent>>) -> Response {
    match agent.store.delete(BGP_KEY).await {
        Ok(there) => reported(json!({"there": there})),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}
