//! Device memory handed out again and again.
//!
//! A block is the best fit among the free ones, the lowest of equals. So what a sequence of requests gets depends on
//! nothing but on what was free at its start: a step that asks as the step before it did gets the same addresses.

use super::device::Address;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks begin and end at multiples of this many bytes within their segment.
pub(in crate::backend) const ALIGNMENT: usize = 256;
/// Bytes of the smallest segment.
const SEGMENT: usize = 8 << 20;

/// Segments of memory, and which of their bytes are free.
#[derive(Debug, Default)]
pub(in crate::backend) struct Pool {
    /// Bytes by address.
    segments: BTreeMap<Address, usize>,
    /// Free blocks, none of which touches another of the same segment: bytes by address.
    free: BTreeMap<Address, usize>,
    by_size: BTreeSet<(usize, Address)>,
}

fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

impl Pool {
    /// The segment to add when a request finds no room: as large as may be useful, and as small as is enough.
    pub fn segment_for(bytes: usize) -> [usize; 2] {
        [rounded(bytes).max(SEGMENT), rounded(bytes)]
    }

    /// Adds a segment, all of it free.
    pub fn add(&mut self, at: Address, bytes: usize) {
        self.segments.insert(at, bytes);
        self.insert(at, bytes);
    }

    /// Whether `at` is in one of the segments.
    pub fn owns(&self, at: Address) -> bool {
        let segment = self.segments.range(..=at).next_back();
        segment.is_some_and(|(&start, &bytes)| at - start < bytes as u64)
    }

    /// A free block of `bytes` bytes, if there is one.
    pub fn take(&mut self, bytes: usize) -> Option<Address> {
        let bytes = rounded(bytes);
        let &(size, at) = self.by_size.range((bytes, 0)..).next()?;
        self.remove(at, size);
        if size > bytes {
            self.insert(at + bytes as Address, size - bytes);
        }
        Some(at)
    }

    /// Takes back a block of `bytes` bytes.
    pub fn give(&mut self, mut at: Address, bytes: usize) {
        let mut bytes = rounded(bytes);
        let end = at + bytes as Address;
        if let Some(&size) = self
            .free
            .get(&end)
            .filter(|_| !self.segments.contains_key(&end))
        {
            self.remove(end, size);
            bytes += size;
        }
        let before = self
            .free
            .range(..at)
            .next_back()
            .map(|(&a, &size)| (a, size));
        if let Some((start, size)) = before
            && start + size as Address == at
            && !self.segments.contains_key(&at)
        {
            self.remove(start, size);
            (at, bytes) = (start, bytes + size);
        }
        self.insert(at, bytes);
    }

    /// Takes out the segments that are free as a whole, and returns them.
    pub fn trim(&mut self) -> Vec<(Address, usize)> {
        let whole = |&(at, bytes): &(Address, usize)| self.free.get(&at) == Some(&bytes);
        let segments = self.segments.iter().map(|(&at, &bytes)| (at, bytes));
        let idle: Vec<_> = segments.filter(whole).collect();
        for &(at, bytes) in &idle {
            self.remove(at, bytes);
            self.segments.remove(&at);
        }
        idle
    }

    /// All segments, used or not; none is left.
    pub fn close(&mut self) -> Vec<(Address, usize)> {
        let segments = std::mem::take(self).segments;
        segments.into_iter().collect()
    }

    fn insert(&mut self, at: Address, bytes: usize) {
        self.free.insert(at, bytes);
        self.by_size.insert((bytes, at));
    }

    fn remove(&mut self, at: Address, bytes: usize) {
        self.free.remove(&at);
        self.by_size.remove(&(bytes, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::{Philox, Purpose};
    use proptest::prelude::*;

    proptest! {
        /// Blocks overlap neither one another nor a segment's end; all given back, the segments are whole again.
        #[test]
        fn blocks_are_apart_and_come_back(requests in prop::collection::vec((any::<bool>(), 0usize..2000, any::<prop::sample::Index>()), 1..200)) {
            let mut pool = Pool::default();
            // Two segments that touch.
            let segments = [(4096, 8192), (4096 + 8192, 4096), (1 << 20, 65536)];
            segments.iter().for_each(|&(at, bytes)| pool.add(at, bytes));
            let mut held: Vec<(Address, usize)> = Vec::new();
            for (take, bytes, which) in requests {
                if take || held.is_empty() {
                    if let Some(at) = pool.take(bytes) {
                        prop_assert!(at % ALIGNMENT as u64 == 0 && pool.owns(at));
                        let end = at + bytes.max(1) as u64;
                        let inside = |&(start, size): &(Address, usize)| start <= at && end <= start + size as u64;
                        prop_assert!(segments.iter().any(inside));
                        for &(other, size) in &held {
                            prop_assert!(end <= other || other + size.max(1) as u64 <= at);
                        }
                        held.push((at, bytes));
                    }
                } else {
                    let (at, bytes) = held.swap_remove(which.index(held.len()));
                    pool.give(at, bytes);
                }
            }
            held.drain(..).for_each(|(at, bytes)| pool.give(at, bytes));
            prop_assert_eq!(pool.trim(), segments.to_vec());
            prop_assert!(pool.take(1).is_none() && !pool.owns(4096));
        }

        /// What is handed out depends on what is free, not on how it became so.
        #[test]
        fn the_same_requests_get_the_same_blocks(sizes in prop::collection::vec((1usize..3000, any::<bool>()), 1..20), order in any::<u64>()) {
            let ask = |pool: &mut Pool| sizes.iter().map(|&(s, _)| pool.take(s).expect("room")).collect::<Vec<_>>();
            let [one, other] = [false, true].map(|shuffled| {
                let mut pool = Pool::default();
                [0, 1 << 17].iter().for_each(|&at| pool.add(at, 1 << 16));
                let held = ask(&mut pool);
                let mut back: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i].1).collect();
                if shuffled {
                    Philox::new(order, Purpose::Test, 0, 0).shuffle(&mut back);
                }
                back.into_iter().for_each(|i| pool.give(held[i], sizes[i].0));
                ask(&mut pool)
            });
            prop_assert_eq!(one, other);
        }
    }
}
