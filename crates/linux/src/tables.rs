//! What is asked of tables of rules besides the objects in them.

use netlink_sys::protocols;
use weft_core::state::Object;

use crate::{
    kernel::{Error, Kernel},
    nft, socket,
};

impl Kernel {
    /// Of a pod's namespace: what leaves by these links of it does so under these addresses alone. Links
    /// that are not named are not judged.
    pub fn judge(&self, links: &[Object]) -> Result<(), Error> {
        let open = || socket::Link::open(protocols::NETLINK_NETFILTER);
        let mut socket = self.netns.run(open).and_then(|socket| socket).map_err(Error::Open)?;
        Ok(nft::judge(&mut socket, links)?)
    }

    /// Takes away every table of ours but that of policies: what somebody altered has nothing that could
    /// be observed.
    pub fn remove_tables(&self) -> Result<(), Error> {
        self.nft.as_ref().map_or(Ok(()), |nft| Ok(nft.remove_all()?))
    }

    /// True if there is a table by any name of ours, whatever is in it.
    pub fn has_tables(&self) -> Result<bool, Error> {
        self.nft.as_ref().map_or(Ok(false), |nft| Ok(nft.any_left()?))
    }
}
