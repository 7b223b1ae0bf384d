//! The table as it should be, or as it is: chains with their rules, sets with their elements. What
//! leads from one to the other is in `change.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::{elements::Element, rule::Rule, shape::Shape};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) number: u32,
    pub(super) priority: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) shape: Shape,
    pub(super) elements: BTreeSet<Element>,
}

impl Table {
    pub(super) fn base(&mut self, name: &str, hook: Hook, rules: Vec<Rule>) {
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules });
    }

    /// A set that has elements; of none there is no need.
    pub(super) fn set(&mut self, name: &str, shape: Shape, elements: BTreeSet<Element>) -> bool {
        let needed = !elements.is_empty();
        if needed {
            self.sets.insert(name.to_owned(), Set { shape, elements });
        }
        needed
    }
}
