//! UPDATE, read (RFC 4271, 4.3 and 6.3) with RFC 7606's view of what is wrong in one: an attribute is
//! left out, or the routes count as withdrawn, and only what can't be understood ends the session.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::{
    AS_TRANS, Agreed, Notification, Reach, Update, as_path,
    attribute::{self as attr, Attribute, Follows, Malformed, flag},
    bytes::Bytes,
    notification::update_error as error,
    prefix,
    reach::{self, MpReach},
};
use crate::attrs::{AsPath, Attrs, Family, NextHop, Other};

pub fn read(body: &[u8], agreed: &Agreed) -> Result<Update, Notification> {
    let mut rest = Bytes(body);
    let (Some(withdrawn), Some(attributes)) = (rest.sized16(), rest.sized16()) else {
        return Err(Notification::update(error::ATTRIBUTE_LIST, &[]));
    };
    if withdrawn.is_empty() && attributes.is_empty() && rest.is_empty() {
        return Ok(Update { end_of_rib: Some(Family::Ipv4), ..Update::default() });
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

/// The attributes of one UPDATE, as far as they are read.
struct Reading<'a> {
    agreed: &'a Agreed,
    attrs: Attrs,
    next_hop: Option<Ipv4Addr>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
    reach: Option<MpReach>,
    unreach: Option<(Family, Vec<IpNet>)>,
    /// MP_REACH_NLRI was there, if of a family that is ignored.
    foreign: bool,
    seen: Seen,
    count: usize,
    /// The routes count as withdrawn; or the session ends with this, if there are none.
    worst: Option<Notification>,
    faults: Vec<String>,
}

/// Codes of attributes that were there.
#[derive(Default)]
struct Seen([u128; 2]);

impl Seen {
    fn has(&self, code: u8) -> bool {
        self.0[usize::from(code >> 7)] >> (code & 127) & 1 == 1
    }

    fn add(&mut self, code: u8) {
        self.0[usize::from(code >> 7)] |= 1 << (code & 127);
    }
}

impl<'a> Reading<'a> {
    fn new(agreed: &'a Agreed) -> Self {
        Self {
            agreed,
            attrs: Attrs::default(),
            next_hop: None,
            as4_path: None,
            as4_aggregator: None,
            reach: None,
            unreach: None,
            foreign: false,
            seen: Seen::default(),
            count: 0,
            worst: None,
            faults: Vec::new(),
        }
    }

    fn all(&mut self, mut list: Bytes<'_>) -> Result<(), Notification> {
        while !list.is_empty() {
            self.count += 1;
            match Attribute::first(&mut list) {
                Ok(attribute) => self.one(&attribute)?,
                Err(code) => return self.beyond(code),
            }
        }
        Ok(())
    }

    /// The list ends inside of an attribute (RFC 7606, 4). If its prefixes were in there, they can't
    /// be withdrawn.
    fn beyond(&mut self, code: Option<u8>) -> Result<(), Notification> {
        let error = Notification::update(error::ATTRIBUTE_LIST, &[]);
        if matches!(code, Some(attr::MP_REACH | attr::MP_UNREACH)) {
            return Err(error);
        }
        let which = code.map_or("an attribute".to_owned(), called);
        self.withdraw(error, format!("{which} beyond the end of all"));
        Ok(())
    }

    fn one(&mut self, attribute: &Attribute<'_>) -> Result<(), Notification> {
        let code = attribute.code;
        if self.seen.has(code) {
            return self.again(code);
        }
        self.seen.add(code);
        let Some(flags) = attr::flags(code) else { return self.unknown(attribute) };
        if let Some(why) = self.unwanted(code) {
            self.faults.push(format!("{} left out: {why}", called(code)));
            return Ok(());
        }
        let value = if (attribute.flags ^ flags) & (flag::OPTIONAL | flag::TRANSITIVE) == 0 {
            self.value(attribute)
        } else {
            Err(Malformed::new(error::FLAGS, &format!("flags {:#04x}", attribute.flags)))
        };
        value.or_else(|malformed| self.blame(attribute, malformed))
    }

    /// RFC 7606, 3 g: the first one counts.
    fn again(&mut self, code: u8) -> Result<(), Notification> {
        if matches!(code, attr::MP_REACH | attr::MP_UNREACH) {
            return Err(Notification::update(error::ATTRIBUTE_LIST, &[]));
        }
        self.faults.push(format!("{} once more, left out", called(code)));
        Ok(())
    }

    /// RFC 4271, 5 and 6.3.
    fn unknown(&mut self, attribute: &Attribute<'_>) -> Result<(), Notification> {
        if attribute.flags & flag::OPTIONAL == 0 {
            return Err(Notification::update(error::UNKNOWN_WELL_KNOWN, attribute.whole));
        }
        if attribute.flags & flag::TRANSITIVE != 0 {
            let value = attribute.value.to_vec();
            self.attrs.others.push(Other { code: attribute.code, partial: true, value });
        }
        Ok(())
    }

    /// Why an attribute is not even looked at.
    fn unwanted(&self, code: u8) -> Option<&'static str> {
        match code {
            attr::LOCAL_PREF | attr::ORIGINATOR_ID | attr::CLUSTER_LIST => {
                self.agreed.external.then_some("from an external neighbour (RFC 7606, 7)")
            }
            attr::AS4_PATH | attr::AS4_AGGREGATOR => {
                self.agreed.four_octet_as.then_some("from one of 4-octet AS (RFC 6793, 6)")
            }
            _ => None,
        }
    }

    fn value(&mut self, attribute: &Attribute<'_>) -> Result<(), Malformed> {
        let value = attribute.value;
        let four = self.agreed.four_octet_as;
        if attribute.code == attr::AS_PATH {
            self.attrs.as_path = self.as_path(value)?;
            return Ok(());
        }
        let attrs = &mut self.attrs;
        match attribute.code {
            attr::ORIGIN => attrs.origin = attr::origin(value)?,
            attr::NEXT_HOP => self.next_hop = Some(attr::next_hop(value)?),
            attr::MED => attrs.med = Some(attr::number(value)?),
            attr::LOCAL_PREF => attrs.local_pref = Some(attr::number(value)?),
            attr::ATOMIC_AGGREGATE if value.is_empty() => attrs.atomic_aggregate = true,
            attr::AGGREGATOR => attrs.aggregator = Some(attr::aggregator(value, four)?),
            attr::COMMUNITIES => attrs.communities = attr::communities(value)?,
            attr::ORIGINATOR_ID => attrs.originator = Some(attr::addr(value)?),
            attr::CLUSTER_LIST => attrs.cluster_list = attr::cluster_list(value)?,
            attr::LARGE_COMMUNITIES => attrs.large_communities = attr::large_communities(value)?,
            attr::AS4_PATH => self.as4_path = Some(as_path::read(value, true)?),
            attr::AS4_AGGREGATOR => self.as4_aggregator = Some(attr::aggregator(value, true)?),
            attr::MP_REACH => return self.mp_reach(value),
            attr::MP_UNREACH => return self.mp_unreach(value),
            _ => return Err(attr::wrong_length(value)),
        }
        Ok(())
    }

    /// Members of a confederation are internal to each other; nobody else may send its segments
    /// (RFC 5065, 5).
    fn as_path(&self, value: &[u8]) -> Result<AsPath, Malformed> {
        let path = as_path::read(value, self.agreed.four_octet_as)?;
        if self.agreed.external && path.0.iter().any(as_path::is_confed) {
            return Err(Malformed::new(error::AS_PATH, "a confederation's segment"));
        }
        Ok(path)
    }

    fn mp_reach(&mut self, value: &[u8]) -> Result<(), Malformed> {
        match reach::read_reach(value, self.agreed)? {
            Some(reach) => self.reach = Some(reach),
            None => {
                self.foreign = true;
                self.faults.push("routes of a family not agreed on, left out".to_owned());
            }
        }
        Ok(())
    }

    fn mp_unreach(&mut self, value: &[u8]) -> Result<(), Malformed> {
        self.unreach = reach::read_unreach(value, self.agreed)?;
        Ok(())
    }

    fn blame(&mut self, of: &Attribute<'_>, malformed: Malformed) -> Result<(), Notification> {
        let Malformed { subcode, why } = malformed;
        match attr::follows(of.code) {
            Follows::Discard => self.faults.push(format!("{} left out: {why}", called(of.code))),
            Follows::Withdraw => {
                let error = Notification::update(subcode, of.whole);
                self.withdraw(error, format!("{}: {why}", called(of.code)));
            }
            Follows::Reset => return Err(Notification::update(error::OPTIONAL, of.whole)),
        }
        Ok(())
    }

    fn withdraw(&mut self, error: Notification, why: String) {
        self.faults.push(format!("routes taken as withdrawn: {why}"));
        self.worst.get_or_insert(error);
    }

    fn finish(mut self, classic: Classic) -> Result<Update, Notification> {
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
        self.leave_out_classic(&mut withdrawn);
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
            .is_some_and(|(asn, _)| asn != AS_TRANS.into() && self.as4_aggregator.is_some());
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
            self.faults.push("ipv4 routes, not agreed on, left out".to_owned());
        }
        all.retain(|reach| !reach.prefixes.is_empty());
        all
    }

    fn leave_out_classic(&mut self, withdrawn: &mut Vec<IpNet>) {
        if !self.agreed.ipv4 {
            withdrawn.clear();
        }
    }

    fn leave_out_senseless(&mut self, withdrawn: &mut Vec<IpNet>, reach: &mut Vec<Reach>) {
        withdrawn.retain(|prefix| !prefix::is_senseless(prefix));
        for reach in &mut *reach {
            let before = reach.prefixes.len();
            let first = reach.prefixes.iter().find(|prefix| prefix::is_senseless(prefix)).copied();
            let Some(first) = first else { continue };
            reach.prefixes.retain(|prefix| !prefix::is_senseless(prefix));
            let count = before - reach.prefixes.len();
            self.faults.push(format!("{count} prefixes that no route can have, {first} first"));
        }
        reach.retain(|reach| !reach.prefixes.is_empty());
    }
}

/// Its name, or its number.
fn called(code: u8) -> String {
    attr::name(code).map_or_else(|| format!("attribute {code}"), str::to_owned)
}
