//! The path from pod to pod built up one thing at a time: what each adds to a packet's cost.

use serde_json::{Map, Value, json};

use super::{
    super::load::Load,
    figures::{Samples, median},
    hosts::Pair,
    plain::{Attach, Judge, Plain, Rules, Track},
};

/// A name, the number of the layer that it stands on, and how it is made. Number 0 is host to host.
const LAYERS: [(&str, usize, Plain); 15] = [
    ("veth direct", 0, Plain { attach: Attach::Veth, vxlan: false, rules: Rules::None }),
    ("+ rules", 1, Plain { attach: Attach::Veth, vxlan: false, rules: UNTRACKED }),
    ("+ tracked", 2, Plain { attach: Attach::Veth, vxlan: false, rules: TRACKED }),
    ("veth vxlan", 1, Plain { attach: Attach::Veth, vxlan: true, rules: Rules::None }),
    ("+ rules, vxlan", 4, Plain { attach: Attach::Veth, vxlan: true, rules: UNTRACKED }),
    ("+ tracked, vxlan", 5, Plain { attach: Attach::Veth, vxlan: true, rules: TRACKED }),
    ("+ outer untracked", 5, Plain { attach: Attach::Veth, vxlan: true, rules: ALL_UNTRACKED }),
    (
        "+ outer untracked, tracked",
        6,
        Plain { attach: Attach::Veth, vxlan: true, rules: OUTER_UNTRACKED },
    ),
    ("bridge for veth, tracked", 6, Plain { attach: Attach::Bridge, vxlan: true, rules: TRACKED }),
    (
        "flannel's rules for ours",
        9,
        Plain { attach: Attach::Bridge, vxlan: true, rules: Rules::Flannel },
    ),
    ("+ source by a set", 1, Plain { attach: Attach::Veth, vxlan: false, rules: BY_SET }),
    (
        "+ source by the route back",
        1,
        Plain { attach: Attach::Veth, vxlan: false, rules: BY_ROUTE },
    ),
    ("+ source by a chain", 1, Plain { attach: Attach::Veth, vxlan: false, rules: BY_CHAIN }),
    ("bridge direct", 1, Plain { attach: Attach::Bridge, vxlan: false, rules: Rules::None }),
    ("+ frame by a set", 14, Plain { attach: Attach::Bridge, vxlan: false, rules: BY_SET }),
];

const BY_SET: Rules = Rules::Judged(Judge::Set);
const BY_ROUTE: Rules = Rules::Judged(Judge::Fib);
const BY_CHAIN: Rules = Rules::Judged(Judge::Ingress);

const UNTRACKED: Rules = Rules::Weft { inner: Track::No, outer: Track::Yes };
const TRACKED: Rules = Rules::Weft { inner: Track::Yes, outer: Track::Yes };
const ALL_UNTRACKED: Rules = Rules::Weft { inner: Track::No, outer: Track::No };
const OUTER_UNTRACKED: Rules = Rules::Weft { inner: Track::Yes, outer: Track::No };

/// What is shown of each, per load: the time on the core of one of them, its scale and digits.
const COSTS: [(Load, &str, f64, usize); 4] = [
    (Load::Requests, "us/round trip", 1e-3, 1),
    (Load::Packets, "ns/packet", 1.0, 0),
    (Load::Stream, "ns/byte", 1.0, 3),
    (Load::Connects, "us/connection", 1e-3, 1),
];

pub fn all() -> anyhow::Result<Vec<Pair>> {
    LAYERS.iter().map(|(name, _, plain)| plain.build(name)).collect()
}

/// `first` is where the layers begin among the pairs.
pub fn table(pairs: &[Pair], first: usize, samples: &Samples) -> Value {
    let place = |layer: usize| if layer == 0 { 0 } else { first + layer - 1 };
    let mut rows = Map::new();
    print!("\n{:<28}", "time on the core (and more)");
    COSTS.iter().for_each(|(_, unit, ..)| print!(" {unit:>17}"));
    println!("  than");
    for layer in 0..=LAYERS.len() {
        let at = place(layer);
        let on = layer.checked_sub(1).map(|before| place(LAYERS[before].1));
        let mut row = Map::new();
        print!("{:<28}", pairs[at].name);
        for (load, unit, scale, digits) in COSTS {
            let of = |at: usize| samples[&(at, load)].iter().map(move |run| run.cost * scale);
            let cost = median(of(at));
            let more = on.map(|on| median(of(at).zip(of(on)).map(|(one, other)| one - other)));
            let shown = more.map_or(String::new(), |more| format!("({more:+.digits$})"));
            print!(" {:>17}", format!("{cost:.digits$} {shown:>8}"));
            row.insert(load.name().into(), json!({"unit": unit, "cost": cost, "more": more}));
        }
        let on = on.map(|on| pairs[on].name.as_str());
        println!("  {}", on.unwrap_or_default());
        row.insert("on".into(), json!(on));
        rows.insert(pairs[at].name.clone(), Value::Object(row));
    }
    Value::Object(rows)
}
