//! Attributes as text.

use serde::{Deserialize, de::value::StrDeserializer};
use weft_bgp::attrs::{AsPath, Community, LargeCommunity, Segment};

#[test]
fn communities() {
    for (text, value) in [
        ("64512:100", 0xfc00_0064),
        ("0:0", 0),
        ("65535:65535", 0xffff_ffff),
        ("no-export", 0xffff_ff01),
        ("no-advertise", 0xffff_ff02),
        ("no-export-subconfed", 0xffff_ff03),
        ("blackhole", 0xffff_029a),
        ("graceful-shutdown", 0xffff_0000),
    ] {
        assert_eq!(text.parse(), Ok(Community(value)), "{text}");
        assert_eq!(Community(value).to_string(), text);
    }
    assert_eq!("65535:65281".parse(), Ok(Community::NO_EXPORT));
    for text in [
        "",
        "1",
        ":",
        "1:",
        ":1",
        "65536:1",
        "1:65536",
        "1:2:3",
        "+1:2",
        "1:-2",
        " 1:2",
        "No-Export",
    ] {
        assert!(text.parse::<Community>().is_err(), "{text}");
    }
    assert_eq!(
        "1:70000".parse::<Community>().unwrap_err().to_string(),
        "\"1:70000\" is no community: write two numbers up to 65535 like 64512:100, or no-export, \
         no-advertise, no-export-subconfed, blackhole, graceful-shutdown"
    );
}

#[test]
fn large_communities() {
    for (text, value) in [
        ("64512:1:2", LargeCommunity(64512, 1, 2)),
        ("0:0:4294967295", LargeCommunity(0, 0, u32::MAX)),
    ] {
        assert_eq!(text.parse(), Ok(value));
        assert_eq!(value.to_string(), text);
    }
    for text in ["", "1:2", "1:2:3:4", "1:2:4294967296", "1:2:", "1:+2:3"] {
        assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
    }
}

#[test]
fn paths() {
    let sequence = |numbers: &[u32]| Segment::Sequence(numbers.to_vec());
    for (text, path) in [
        ("", vec![]),
        ("64512", vec![sequence(&[64512])]),
        ("64512 4200000001", vec![sequence(&[64512, 4_200_000_001])]),
        ("1 {2,3} 4", vec![sequence(&[1]), Segment::Set(vec![2, 3]), sequence(&[4])]),
        (
            "(1 2) [3,4] 5",
            vec![
                Segment::ConfedSequence(vec![1, 2]),
                Segment::ConfedSet(vec![3, 4]),
                sequence(&[5]),
            ],
        ),
        ("{1} {2}", vec![Segment::Set(vec![1]), Segment::Set(vec![2])]),
    ] {
        assert_eq!(text.parse(), Ok(AsPath(path.clone())), "{text}");
        assert_eq!(AsPath(path).to_string(), text);
    }
    for text in ["x", "1 -2", "0", "1 {", "1 }", "{}", "()", "{1", "4294967296", "1;2", "{1 {2}}"] {
        assert!(text.parse::<AsPath>().is_err(), "{text}");
    }
}

#[test]
fn length_is_that_of_the_choice() {
    for (text, length) in [("", 0), ("1 2", 2), ("1 {2,3}", 2), ("(1 2) [3] 4", 1)] {
        assert_eq!(text.parse::<AsPath>().unwrap().length(), length, "{text}");
    }
}

#[test]
fn in_records_they_are_text() {
    type Error = serde::de::value::Error;
    let community = Community::deserialize(StrDeserializer::<Error>::new("no-export"));
    assert_eq!(community, Ok(Community::NO_EXPORT));
    let community = Community::deserialize(StrDeserializer::<Error>::new("no-exports"));
    assert!(community.unwrap_err().to_string().starts_with("\"no-exports\" is no community"));
}
