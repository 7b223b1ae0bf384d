//! How a process with no memory tells our objects from a stranger's. Numbers we own.

/// `IFLA_GROUP` of our links, set in the message that creates them ("weft" in ASCII).
pub const LINK_GROUP: u32 = 0x7765_6674;
/// `IFLA_GROUP` of links whose pod is gone: unreachable already, freed together.
pub const DOOMED_GROUP: u32 = LINK_GROUP + 1;
/// `rtm_protocol` and `nh_protocol` of our routes and nexthop objects.
pub const PROTOCOL: u8 = 119;
/// Metric of our routes. Ours alone: `NLM_F_REPLACE` takes over a route of equal prefix and metric.
pub const METRIC: u32 = 119;
/// Of the routes inside a pod that lead to its node: behind those of the pod's other links.
pub const ACCESS_METRIC: u32 = METRIC + 1;
/// Our nftables table of policies, family inet, on the node and in pods.
pub const POLICY_TABLE: &str = "weft-policy";
/// Our nftables tables, families inet and netdev.
pub const TABLE: &str = "weft";
/// That of the ports that lead to pods, family inet.
pub const PORTS: &str = "weft-ports";
/// Nexthop objects of ours have this in the top byte of their number.
pub const NEXTHOP_BASE: u32 = 0x7700_0000;
/// Those of the addresses that pods may send from, families inet and bridge.
pub const SOURCES: &str = "weft-sources";
