//! Several next hops that share one route's packets (ECMP): a nexthop group. Its number in the kernel is
//! the kernel crate's own business, as a nexthop object's is.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::name::IfName;

/// In order and without doubles, so that the same hops are the same group. Shared: thousands of
/// routes may lead through one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<(IfName, IpAddr)>", into = "Vec<(IfName, IpAddr)>")]
pub struct Group(Arc<[(IfName, IpAddr)]>);

impl Group {
    pub fn hops(&self) -> &[(IfName, IpAddr)] {
        &self.0
    }
}

impl From<Vec<(IfName, IpAddr)>> for Group {
    fn from(mut hops: Vec<(IfName, IpAddr)>) -> Self {
        hops.sort();
        hops.dedup();
        Self(hops.into())
    }
}
impl From<Group> for Vec<(IfName, IpAddr)> {
    fn from(group: Group) -> Self {
        group.0.to_vec()
    }
}
impl fmt::Display for Group {
    /// As iproute2 writes the next hops of a route.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (dev, via)) in self.0.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}nexthop via {via} dev {dev}")?;
        }
        Ok(())
    }
}
