//! The frames between plugin and agent.

use super::request;
use crate::cni::{
    Request,
    wire::{self, BadFrame, CONFIG_MAX, FRAME_MAX, HEAD, Reply, VERSION},
};

fn head(frame: &[u8]) -> [u8; HEAD] {
    frame[..HEAD].try_into().unwrap()
}

#[test]
fn what_goes_in_comes_out() {
    let request = request("ADD", "{\"a\":\"é\\\"\n\"}");
    let frame = wire::encode(&request).unwrap();
    assert_eq!(wire::length(head(&frame)), Ok(frame.len() - HEAD));
    assert_eq!(wire::decode::<Request>(&frame[HEAD..]), Ok(request));
    let reply = Reply { exit: 1, stdout: "{\"code\":11}\n".into() };
    let frame = wire::encode(&reply).unwrap();
    assert_eq!(wire::decode::<Reply>(&frame[HEAD..]), Ok(reply));
}

#[test]
fn the_longest_configuration_fits_into_a_frame() {
    let quotes = Request { config: "\"".repeat(CONFIG_MAX), ..request("ADD", "") };
    assert!(wire::encode(&quotes).is_ok());
    let more = Request { config: "\"".repeat(FRAME_MAX / 2), ..quotes };
    assert!(matches!(wire::encode(&more), Err(BadFrame::TooLong(_))));
}

#[test]
fn a_frame_of_another_release_or_too_long_a_one_is_said_before_it_is_read() {
    assert_eq!(wire::length([VERSION + 1, 0, 0, 0, 9]), Err(BadFrame::Version(VERSION + 1)));
    assert!(BadFrame::Version(2).to_string().contains("install plugin and agent of one release"));
    assert_eq!(wire::length([VERSION, 0xff, 0, 0, 0]), Err(BadFrame::TooLong(0xff00_0000)));
    assert_eq!(wire::length([VERSION, 0, 0x40, 0, 0]), Ok(FRAME_MAX));
    assert!(matches!(wire::decode::<Reply>(b"{"), Err(BadFrame::Json(_))));
    assert!(matches!(wire::decode::<Reply>(b"{}"), Err(BadFrame::Json(_))));
}

#[test]
fn a_field_of_tomorrow_or_one_of_yesterday_that_is_missing_does_no_harm() {
    let request: Request = wire::decode(br#"{"command":"DEL","of-tomorrow":1}"#).unwrap();
    assert_eq!(request, Request { command: "DEL".into(), ..Request::default() });
}
