//! Two racks with real routers, FRR and BIRD.

use weft::lab::{start_routers, tor};

use crate::story::*;

fn racks(nodes: usize) -> Plan {
    Plan { topology: Topology::Racks, ..plan(nodes) }
}

#[test]
fn the_routers_speak_with_each_other() {
    let site = built(&racks(2));
    let routers = start_routers(&site, tor::installed().unwrap()).unwrap();
    let ctl = site.plan.dir.join("tor-2/bird.ctl");
    let asked = format!("birdc -s {} show protocols all tor", ctl.display());
    let mut last = String::new();
    let end = Instant::now() + Duration::from_secs(15);
    while !last.contains("Established") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        last = sh(&site.wire.tors()[1], &format!("{asked} || true"));
    }
    println!("{last}\n{}\n{}", routers[0].log(), routers[1].log());
    assert!(last.contains("Established"));
}
