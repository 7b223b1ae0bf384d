//! Which objects there are, by name: what a list lacks is gone, and nothing is before its last page.

use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Present<N> {
    /// With the list that had it last.
    names: BTreeMap<N, u32>,
    list: u32,
}

impl<N> Default for Present<N> {
    fn default() -> Self {
        Self { names: BTreeMap::new(), list: 0 }
    }
}

impl<N: Ord + Clone> Present<N> {
    /// True if it is new.
    pub fn put(&mut self, name: N) -> bool {
        self.names.insert(name, self.list).is_none()
    }
    pub fn gone(&mut self, name: &N) {
        self.names.remove(name);
    }
    /// A list begins.
    pub fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }
    /// Those that the list lacks, which has ended.
    pub fn end(&mut self) -> Vec<N> {
        let list = self.list;
        self.names.extract_if(.., |_, of| *of != list).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_whole_list_lacks_is_gone() {
        let mut present = Present::default();
        assert!(present.put("a") && present.put("b") && !present.put("a"));
        present.begin();
        present.put("a");
        // It breaks off, and is begun again.
        present.begin();
        present.put("c");
        assert_eq!(present.end(), ["a", "b"]);
        present.gone(&"c");
        present.begin();
        assert!(present.end().is_empty());
    }
}
