//! What was seen to be in use: a set of hashes of a bounded size.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::oci::Algorithm;

/// Names that were marked, as hashes of 64 bits. Two names of one hash keep each other alive, which does no harm.
///
/// When there are too many, the set gives up the upper part of its range: what hashes there is decided in another pass.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    hashes: BTreeSet<u64>,
    from: u64,
    /// The first hash beyond the range, if it has an end.
    to: Option<u64>,
    most: usize,
}

/// The upper half is of what comes before the first `!`, so that all names of a family are decided in one pass; the lower half
/// of a family's own mark is 0.
fn hash(name: &str) -> u64 {
    match name.split_once('!') {
        None => first_bits(name),
        Some((family, "")) => first_bits(family) & FAMILY,
        Some((family, rest)) => first_bits(family) & FAMILY | first_bits(rest) & !FAMILY,
    }
}

const FAMILY: u64 = 0xffff_ffff_0000_0000;

fn first_bits(text: &str) -> u64 {
    let digest = Algorithm::Sha256.digest(text.as_bytes());
    u64::from_str_radix(&digest.hex()[..16], 16).unwrap_or_default()
}

impl Marks {
    pub(super) fn new(most: usize) -> Self {
        Self { hashes: BTreeSet::new(), from: 0, to: None, most }
    }

    pub(super) fn mark(&mut self, name: &str) {
        self.insert(hash(name));
    }

    fn insert(&mut self, hash: u64) {
        if self.covers_hash(hash) && self.hashes.insert(hash) && self.hashes.len() > self.most {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let middle = self.hashes.iter().nth(self.hashes.len() / 2).copied().unwrap_or_default();
        let last = self.hashes.last().copied().unwrap_or_default();
        // A family is never cut in two, were it ever so large.
        for to in [middle & FAMILY, last & FAMILY] {
            if to > self.from && self.hashes.first().is_some_and(|first| *first < to) {
                self.hashes.split_off(&to);
                self.to = Some(to);
                return;
            }
        }
    }

    fn covers_hash(&self, hash: u64) -> bool {
        hash >= self.from && self.to.is_none_or(|to| hash < to)
    }

    /// Whether this pass decides about `name`.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.covers_hash(hash(name))
    }

    /// Whether `name` was marked, or all names of its family.
    pub(super) fn has(&self, name: &str) -> bool {
        let hash = hash(name);
        self.hashes.contains(&hash) || self.hashes.contains(&(hash & FAMILY))
    }

    /// Takes a mark away that was met.
    pub(super) fn meet(&mut self, name: &str) {
        self.hashes.remove(&hash(name));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether everything is in this pass's range.
    pub(super) fn is_whole(&self) -> bool {
        self.from == 0 && self.to.is_none()
    }

    pub(super) fn is_first(&self) -> bool {
        self.from == 0
    }

    /// Goes on to the next part of the range, if there is one.
    pub(super) fn next(&mut self) -> bool {
        self.hashes.clear();
        let more = self.to.is_some();
        self.from = self.to.take().unwrap_or(0);
        more
    }

    /// Marks `child` wherever `parent` is marked, until there is nothing more to mark.
    pub(super) fn follow(&mut self, edges: &[(u64, u64)]) {
        let mut sorted = edges.to_vec();
        sorted.sort_unstable();
        let mut open: Vec<u64> = self.hashes.iter().copied().collect();
        while let Some(parent) = open.pop() {
            let start = sorted.partition_point(|edge| edge.0 < parent);
            for (_, child) in sorted[start..].iter().take_while(|edge| edge.0 == parent) {
                if self.hashes.insert(*child) {
                    open.push(*child);
                }
            }
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + self.hashes.len() * 8);
        bytes.put_u64(self.from);
        bytes.put_u8(self.to.is_some().into());
        bytes.put_u64(self.to.unwrap_or(0));
        self.hashes.iter().for_each(|hash| bytes.put_u64(*hash));
        bytes
    }

    pub(super) fn from_bytes(mut bytes: Bytes, most: usize) -> Option<Self> {
        let mut marks = Self::new(most);
        marks.from = bytes.try_get_u64().ok()?;
        let has_end = bytes.try_get_u8().ok()? == 1;
        let to = bytes.try_get_u64().ok()?;
        marks.to = has_end.then_some(to);
        while bytes.has_remaining() {
            marks.hashes.insert(bytes.try_get_u64().ok()?);
        }
        Some(marks)
    }
}

/// That what `parent` names is in use if `parent` is.
pub(super) fn edge(parent: &str, child: &str) -> (u64, u64) {
    (hash(parent), hash(child))
}

pub(super) fn edges_to_bytes(edges: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(edges.len() * 16);
    for (parent, child) in edges {
        bytes.put_u64(*parent);
        bytes.put_u64(*child);
    }
    bytes
}

pub(super) fn edges_from_bytes(mut bytes: Bytes) -> Option<Vec<(u64, u64)>> {
    let mut edges = Vec::with_capacity(bytes.len() / 16);
    while bytes.has_remaining() {
        edges.push((bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?));
    }
    Some(edges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_decided_in_one_pass_however_few_fit() {
        let names: Vec<String> = (0..1000).map(|n| format!("{}!{}", n / 3, n % 3)).collect();
        let mut marks = Marks::new(10);
        let mut decided = vec![0; names.len()];
        let mut passes = 0;
        loop {
            for name in names.iter().step_by(2) {
                marks.mark(name);
            }
            for (n, name) in names.iter().enumerate().filter(|(_, name)| marks.covers(name)) {
                assert_eq!(marks.has(name), n % 2 == 0, "{name}");
                decided[n] += 1;
            }
            passes += 1;
            if !marks.next() {
                break;
            }
        }
        assert!(decided.iter().all(|times| *times == 1), "{decided:?}");
        assert!(passes > 10, "{passes}");
    }

    #[test]
    fn a_family_stands_for_its_names() {
        let mut marks = Marks::new(10);
        marks.mark("family!");
        assert!(marks.has("family!a") && marks.has("family!") && !marks.has("other!a"));
    }

    #[test]
    fn marks_follow_edges() {
        let mut marks = Marks::new(10);
        marks.mark("a");
        marks.follow(&[edge("b", "c"), edge("a", "b"), edge("x", "y"), edge("c", "a")]);
        assert!(marks.has("b") && marks.has("c") && !marks.has("y") && !marks.has("x"));
    }

    #[test]
    fn marks_are_read_back() {
        let mut marks = Marks::new(4);
        (0..20).for_each(|n| marks.mark(&n.to_string()));
        let read = Marks::from_bytes(marks.to_bytes().into(), 4).unwrap();
        assert_eq!((read.hashes, read.from, read.to), (marks.hashes, marks.from, marks.to));
    }
}
