//! `weft lab` itself, as a user runs it.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn guided(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["lab", "--json"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(last["ok"], true, "{text}");
    assert!(out.status.success());
    last
}

#[test]
fn every_model_reaches_everybody_and_no_change_loses_a_packet() {
    let result = guided(&[]);
    let (runs, switches) =
        (result["runs"].as_array().unwrap(), result["switches"].as_array().unwrap());
    assert_eq!(
        (runs.len(), switches.len()),
        (12, 12),
        "2 attaches × 3 joins × 2 families; 2 × 6 changes"
    );
    assert!(runs.iter().all(|run| run["pairs"] == 30 && run["reached"] == 30));
    assert!(
        switches
            .iter()
            .all(|s| s["sent"].as_u64() > Some(1000) && s["lost"] == 0 && s["resets"] == 0)
    );
}

#[test]
fn two_segments() {
    let result = guided(&["--topology", "routed", "--pods", "1"]);
    assert_eq!(result["runs"].as_array().unwrap().len(), 8, "vxlan and auto; host-gw is refused");
}
