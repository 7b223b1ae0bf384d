//! What is known of many prefixes, cheap to copy: the copy shares all parts but those that are written
//! to after. So readers keep what they have while the next is made.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Index,
    sync::Arc,
};

use ipnet::IpNet;
use weft_bgp::report::{Course, Learnt};

/// Parts of one map.
const PARTS: usize = 1024;
/// After so many new ones it is looked for courses that nobody takes any more.
const SWEEP: usize = 4096;

type Part = BTreeMap<IpNet, Arc<Course>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// None, or `PARTS`.
    parts: Vec<Arc<Part>>,
    length: usize,
}

impl Routes {
    pub fn len(&self) -> usize {
        self.length
    }
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn get(&self, prefix: &IpNet) -> Option<&Arc<Course>> {
        self.parts.get(part_of(prefix))?.get(prefix)
    }
    pub fn contains_key(&self, prefix: &IpNet) -> bool {
        self.get(prefix).is_some()
    }

    /// In no order.
    pub fn keys(&self) -> impl Iterator<Item = &IpNet> {
        self.parts.iter().flat_map(|part| part.keys())
    }
    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Arc<Course>)> {
        self.parts.iter().flat_map(|part| part.iter())
    }
    /// In no order.
    pub fn values(&self) -> impl Iterator<Item = Learnt> {
        self.iter().map(|(prefix, course)| Learnt { prefix: *prefix, course: course.clone() })
    }

    pub(super) fn set(&mut self, prefix: IpNet, course: Option<Arc<Course>>) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, Arc::default);
        }
        let part = Arc::make_mut(&mut self.parts[part_of(&prefix)]);
        let before = part.len();
        match course {
            Some(course) => drop(part.insert(prefix, course)),
            None => drop(part.remove(&prefix)),
        }
        self.length = self.length + part.len() - before;
    }
}

impl FromIterator<Learnt> for Routes {
    fn from_iter<I: IntoIterator<Item = Learnt>>(all: I) -> Self {
        let mut routes = Self::default();
        all.into_iter().for_each(|learnt| routes.set(learnt.prefix, Some(learnt.course)));
        routes
    }
}

impl Index<&IpNet> for Routes {
    type Output = Arc<Course>;
    fn index(&self, prefix: &IpNet) -> &Arc<Course> {
        self.get(prefix).expect("whoever names a prefix so knows that it is there")
    }
}

fn part_of(prefix: &IpNet) -> usize {
    let mut hasher = DefaultHasher::new();
    prefix.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTS as u64).unwrap_or(0)
}

/// Courses, each kept once for all prefixes that take it.
#[derive(Default)]
pub(super) struct Courses {
    all: HashSet<Arc<Course>>,
    new: usize,
    /// What was asked for last, and what the answer was: it mostly is asked for again.
    last: Option<(Arc<Course>, Arc<Course>)>,
}

impl Courses {
    pub fn one(&mut self, course: Arc<Course>) -> Arc<Course> {
        if let Some((asked, one)) = &self.last
            && Arc::ptr_eq(asked, &course)
        {
            return one.clone();
        }
        let one = self.look_up(course.clone());
        self.last = Some((course, one.clone()));
        one
    }

    fn look_up(&mut self, course: Arc<Course>) -> Arc<Course> {
        if let Some(known) = self.all.get(&course) {
            return known.clone();
        }
        self.new += 1;
        if self.new > SWEEP.max(self.all.len() / 2) {
            self.new = 0;
            self.all.retain(|course| Arc::strong_count(course) > 1);
        }
        self.all.insert(course.clone());
        course
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(path: &str) -> Arc<Course> {
        let (hops, why) = (Vec::new(), None);
        Arc::new(Course { hops, why, stale: false, as_path: path.into() })
    }

    #[test]
    fn a_copy_stays_what_it_was() {
        let prefix = |n: u32| IpNet::new(std::net::Ipv4Addr::from(n << 8).into(), 24).unwrap();
        let (mut courses, mut routes) = (Courses::default(), Routes::default());
        assert!(routes.is_empty() && !routes.contains_key(&prefix(1)));
        for n in 1..=1000 {
            routes.set(prefix(n), Some(courses.one(course("65001"))));
        }
        let copy = routes.clone();
        routes.set(prefix(1), None);
        routes.set(prefix(2), Some(courses.one(course("65002"))));
        routes.set(prefix(2000), None);
        assert_eq!([copy.len(), routes.len(), routes.keys().count()], [1000, 999, 999]);
        assert_eq!(copy[&prefix(2)].as_path, "65001");
        assert_eq!(routes[&prefix(2)].as_path, "65002");
        assert!(copy.contains_key(&prefix(1)) && !routes.contains_key(&prefix(1)));
        assert!(Arc::ptr_eq(&routes[&prefix(3)], &routes[&prefix(4)]), "kept once");
        assert_eq!(copy, copy.values().collect());
    }

    #[test]
    fn what_nobody_takes_any_more_is_not_kept() {
        let mut courses = Courses::default();
        for n in 0..3 * SWEEP {
            courses.one(course(&n.to_string()));
        }
        assert!(courses.all.len() <= 2 * SWEEP, "{}", courses.all.len());
    }
}
