//! UPDATE, read (RFC 4271, 4.3 and 6.3) with RFC 7606's view of what is wrong in one: an attribute is
//! left out, or the routes count as withdrawn, and only what can't be understood ends the session.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::{
    AS_TRANS, Agreed, Notification, Reach, Update, as_path, attribute as attr,
    attributes::{Reading, called},
    bytes::Bytes,
    notification::update_error as error,
    prefix,
    reach::MpReach,
};
use crate::attrs::{Family, NextHop};

pub fn read(body: &[u8], agreed: &Agreed) -> Result<Update, Notification> {
    let mut rest = Bytes(body);
    let (Some(withdrawn), Some(attributes)) = (rest.sized16(), rest.sized16()) else {
        return Err(Notification::update(error::ATTRIBUTE_LIST, &[]));
    };
    if withdrawn.is_empty() && attributes.is_empty() && rest.is_empty() {
        return Ok(Update { end_of_rib: agreed.ipv4.then_some(Family::Ipv4), ..Update::default() });
    }
    let ipv4 =
        |field| prefix::read(field, Family::Ipv4).ok_or(Notification::update(error::NETWORK, &[]));
    let classic = Classic { withdrawn: ipv4(withdrawn)?, reachable: ipv4(rest.0)? };
    let mut reading = Reading::new(agreed);
    reading.all(Bytes(attributes))?;
    reading.finish(classic)
}

/// What stands outside of the attributes.
struct Classic {
    withdrawn: Vec<IpNet>,
    reachable: Vec<IpNet>,
}

impl Reading<'_> {
    /// RFC 4760, 3: with MP_REACH_NLRI alone it is ignored.
    fn judge_next_hop(&mut self, classic: bool) {
        let Some((error, why)) = self.bad_next_hop.take() else { return };
        if classic || !self.seen.has(attr::MP_REACH) {
            self.withdraw(error, why);
        }
    }

    fn finish(mut self, classic: Classic) -> Result<Update, Notification> {
        self.judge_next_hop(!classic.reachable.is_empty());
        let reachable = self.foreign
            || !classic.reachable.is_empty()
            || self.reach.as_ref().is_some_and(|reach| !reach.prefixes.is_empty());
        if reachable {
            self.check(!classic.reachable.is_empty());
        } else if let Some(error) = self.worst {
            // RFC 7606, 5.2: nobody knows which routes it meant.
            return Err(error);
        }
        self.merge();
        let end_of_rib = self.end_of_rib(&classic);
        let mut withdrawn = classic.withdrawn;
        let mut reach = self.reachable(classic.reachable);
        if !self.agreed.ipv4 {
            withdrawn.clear();
        }
        withdrawn.extend(self.unreach.take().into_iter().flat_map(|(_, prefixes)| prefixes));
        if self.worst.is_some() {
            withdrawn.extend(reach.drain(..).flat_map(|reach| reach.prefixes));
        }
        self.leave_out_senseless(&mut withdrawn, &mut reach);
        self.attrs.others.sort_by_key(|other| other.code);
        let attrs = (!reach.is_empty()).then_some(self.attrs);
        Ok(Update { attrs, reach, withdrawn, end_of_rib, faults: self.faults })
    }

    /// What routes have to have (RFC 4271, 6.3; RFC 7606, 3 d).
    fn check(&mut self, classic: bool) {
        let missing = [attr::ORIGIN, attr::AS_PATH, attr::NEXT_HOP]
            .into_iter()
            .find(|code| !self.seen.has(*code) && (*code != attr::NEXT_HOP || classic));
        if let Some(code) = missing {
            let error = Notification::update(error::MISSING, &[code]);
            self.withdraw(error, format!("{} is missing", called(code)));
        }
        if let Some(Err(malformed)) = self.reach.as_mut().map(|reach| &mut reach.next_hop) {
            let error = Notification::update(malformed.subcode, &[]);
            let why = std::mem::take(&mut malformed.why);
            self.withdraw(error, format!("{}: {why}", called(attr::MP_REACH)));
        }
    }

    /// RFC 6793, 4.2.3.
    fn merge(&mut self) {
        let aggregated_by_old = self
            .attrs
            .aggregator
            .is_some_and(|(asn, _)| asn != u32::from(AS_TRANS) && self.as4_aggregator.is_some());
        if aggregated_by_old {
            return;
        }
        if self.attrs.aggregator.is_some() && self.as4_aggregator.is_some() {
            self.attrs.aggregator = self.as4_aggregator;
        }
        if let Some(new) = self.as4_path.take() {
            let old = std::mem::take(&mut self.attrs.as_path);
            self.attrs.as_path = as_path::merge(old, as_path::without_confed(&new));
        }
    }

    /// RFC 4724, 2: nothing but an empty MP_UNREACH_NLRI.
    fn end_of_rib(&self, classic: &Classic) -> Option<Family> {
        let bare = self.count == 1 && classic.withdrawn.is_empty() && classic.reachable.is_empty();
        match &self.unreach {
            Some((family, prefixes)) if bare && prefixes.is_empty() => Some(*family),
            _ => None,
        }
    }

    fn reachable(&mut self, classic: Vec<IpNet>) -> Vec<Reach> {
        let mut all = Vec::with_capacity(2);
        if let Some(MpReach { next_hop, prefixes }) = self.reach.take() {
            // One that is malformed is told as withdrawn; where to does not matter then.
            let next_hop = next_hop.unwrap_or(NextHop::V4(Ipv4Addr::UNSPECIFIED));
            all.push(Reach { next_hop, prefixes });
        }
        if self.agreed.ipv4 {
            let next_hop = NextHop::V4(self.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED));
            all.push(Reach { next_hop, prefixes: classic });
        } else if !classic.is_empty() {
            self.fault("ipv4 routes, not agreed on, left out".to_owned());
        }
        all.retain(|reach| !reach.prefixes.is_empty());
        all
    }

    fn leave_out_senseless(&mut self, withdrawn: &mut Vec<IpNet>, reach: &mut Vec<Reach>) {
        withdrawn.retain(|prefix| !prefix::is_senseless(prefix));
        for reach in &mut *reach {
            let before = reach.prefixes.len();
            let first = reach.prefixes.iter().find(|prefix| prefix::is_senseless(prefix)).copied();
            let Some(first) = first else { continue };
            reach.prefixes.retain(|prefix| !prefix::is_senseless(prefix));
            let more = before - reach.prefixes.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.fault(format!("prefixes that no route can have, left out: {first}{more}"));
        }
        reach.retain(|reach| !reach.prefixes.is_empty());
    }
}
