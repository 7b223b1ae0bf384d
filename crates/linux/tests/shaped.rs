//! Token buckets against the real kernel and the `tc` tool.
#![allow(clippy::unwrap_used)]

mod floor;

use floor::{converge, node, observe, sh};
use weft_core::{
    bandwidth::Limit,
    name::{IfName, Mac, Mtu},
    plan::plan,
    state::{Kind, Link, Object, State},
};

fn shaped(rate: u64, burst: u64) -> State {
    let dev = IfName::new("weftb-x");
    let (mac, mtu) = (Mac([2, 0, 0, 0, 0, 1]), Mtu::ETHERNET);
    let link = Link { dev: dev.clone(), kind: Kind::Bridge, mtu, mac, master: None };
    let limit = Limit::of_bits(rate, burst).unwrap();
    [Object::Link(link), Object::Shaped { dev: dev.clone(), limit }, Object::Up { dev }]
        .into_iter()
        .collect()
}

#[test]
fn a_bucket_says_in_tc_what_we_mean_and_is_read_back_whatever_its_size() {
    node(|kernel| {
        for (rate, burst) in [
            (1_000, 0),
            (1_000_000, 0),
            (10_000_000, 8_000_000),
            (123_456_789, 987_654),
            (1_000_000_000, u64::from(u32::MAX)),
            (100_000_000_000, 0),
        ] {
            converge(kernel, &shaped(rate, burst));
        }
        let desired = shaped(8_000_000, 8_000_000);
        converge(kernel, &desired);
        let text = sh("tc qdisc show dev weftb-x root");
        assert!(text.contains("qdisc tbf 7765: root") && text.contains("rate 8Mbit"), "{text}");
        for sabotage in [
            "tc qdisc del dev weftb-x root",
            "tc qdisc change dev weftb-x root handle 7765: tbf rate 9mbit burst 1000000 limit 1025000",
            "tc qdisc change dev weftb-x root handle 7765: tbf rate 8mbit burst 5000 limit 1025000",
            "tc qdisc replace dev weftb-x root handle 1: pfifo limit 9",
        ] {
            sh(sabotage);
            assert_ne!(plan(&desired, &observe(kernel, &desired)), [], "{sabotage} is not seen");
            converge(kernel, &desired);
        }
        let mut without = desired.clone();
        without.drop(
            &Object::Shaped { dev: IfName::new("weftb-x"), limit: Limit { rate: 1, burst: 1 } }
                .key(),
        );
        converge(kernel, &without);
        assert!(!sh("tc qdisc show dev weftb-x root").contains("tbf"));
    });
}
