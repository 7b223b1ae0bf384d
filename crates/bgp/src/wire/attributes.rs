//! The attributes of one UPDATE: what they say, and what is wrong with them (RFC 7606).

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::{
    Agreed, Notification, as_path,
    attribute::{self as attr, Attribute, Follows, Malformed, flag},
    bytes::Bytes,
    notification::update_error as error,
    reach::{self, MpReach},
};
use crate::attrs::{AsPath, Attrs, Family, Other};

/// So many are told of one message.
const FAULTS_MAX: usize = 8;

/// The attributes of one UPDATE, as far as they are read.
pub struct Reading<'a> {
    pub agreed: &'a Agreed,
    pub attrs: Attrs,
    pub next_hop: Option<Ipv4Addr>,
    /// What is wrong with NEXT_HOP, which counts only if something needs it.
    pub bad_next_hop: Option<(Notification, String)>,
    pub as4_path: Option<AsPath>,
    pub as4_aggregator: Option<(u32, Ipv4Addr)>,
    pub reach: Option<MpReach>,
    pub unreach: Option<(Family, Vec<IpNet>)>,
    /// MP_REACH_NLRI was there, if of a family that is ignored.
    pub foreign: bool,
    pub seen: Seen,
    pub count: usize,
    /// The routes count as withdrawn; or the session ends with this, if there are none.
    pub worst: Option<Notification>,
    pub faults: Vec<String>,
}

/// Codes of attributes that were there.
#[derive(Default)]
pub struct Seen([u128; 2]);

impl Seen {
    pub fn has(&self, code: u8) -> bool {
        self.0[usize::from(code >> 7)] >> (code & 127) & 1 == 1
    }

    fn add(&mut self, code: u8) {
        self.0[usize::from(code >> 7)] |= 1 << (code & 127);
    }
}

impl<'a> Reading<'a> {
    pub fn new(agreed: &'a Agreed) -> Self {
        Self {
            agreed,
            attrs: Attrs::default(),
            next_hop: None,
            bad_next_hop: None,
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

    pub fn all(&mut self, mut list: Bytes<'_>) -> Result<(), Notification> {
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
            self.leave_out(code, why);
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
        self.leave_out(code, "it is there once more");
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
                self.fault("routes of a family not agreed on, left out".to_owned());
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
            Follows::Discard => self.leave_out(of.code, &why),
            Follows::Withdraw => {
                let error = Notification::update(subcode, of.whole);
                let why = format!("{}: {why}", called(of.code));
                if of.code == attr::NEXT_HOP {
                    self.bad_next_hop = Some((error, why));
                } else {
                    self.withdraw(error, why);
                }
            }
            Follows::Reset => return Err(Notification::update(error::OPTIONAL, of.whole)),
        }
        Ok(())
    }

    pub fn withdraw(&mut self, error: Notification, why: String) {
        if self.worst.is_none() {
            self.faults.insert(0, format!("routes taken as withdrawn: {why}"));
            self.worst = Some(error);
        } else {
            self.fault(why);
        }
    }

    fn leave_out(&mut self, code: u8, why: &str) {
        self.fault(format!("{} left out: {why}", called(code)));
    }

    pub fn fault(&mut self, why: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(why);
        }
    }
}

/// Its name, or its number.
pub fn called(code: u8) -> String {
    attr::name(code).map_or_else(|| format!("attribute {code}"), str::to_owned)
}
