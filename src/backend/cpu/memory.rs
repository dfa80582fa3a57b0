//! Blocks of f32 memory that are used again.
//!
//! A training step allocates and frees the same few hundred large blocks over and over. Given back
//! to the system, each costs a page fault and a cleared page for every 4 KiB when it is next
//! touched: more time than the memory-bound kernels themselves take. So freed blocks wait here, and
//! a kernel that overwrites its whole output takes one as it is.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Elements from which a block is worth keeping; smaller ones are the allocator's business.
const KEEP: usize = 4096;

/// A slice of f32 that returns to the pool when dropped.
#[derive(Debug, Default)]
pub(super) struct Memory {
    block: Vec<f32>,
    /// Elements of the block that are initialised, of which the pool keeps account; 0 for a block
    /// that is not the pool's.
    class: usize,
}

impl Memory {
    /// `len` elements of any value, to be overwritten.
    pub(super) fn stale(len: usize) -> Self {
        if len < KEEP {
            return Self::from(vec![0.0; len]);
        }
        let class = class(len);
        let kept = pool().take(class);
        let (mut block, class) = kept.unwrap_or_else(|| (vec![0.0; class], class));
        // SAFETY: a block is created with all elements of its class initialised, the pool hands out
        // none of a class below `len`, and f32 has no drop: the elements still are.
        unsafe { block.set_len(len) };
        Self { block, class }
    }

    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let mut memory = Self::stale(len);
        memory.fill(0.0);
        memory
    }

    /// A copy of `data`.
    pub(super) fn copy_of(data: &[f32]) -> Self {
        let mut memory = Self::stale(data.len());
        memory.copy_from_slice(data);
        memory
    }
}

impl From<Vec<f32>> for Memory {
    /// Takes over a small vector.
    fn from(block: Vec<f32>) -> Self {
        Self { block, class: 0 }
    }
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.block
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.block
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.class > 0 {
            pool().give(std::mem::take(&mut self.block), self.class);
        }
    }
}

/// The capacity for `len` elements: a multiple of an eighth of the power of two below it, so that
/// nearly equal sizes share blocks and at most an eighth is idle.
fn class(len: usize) -> usize {
    len.next_multiple_of((len / 2 + 1).next_power_of_two() / 8)
}

/// Free blocks.
#[derive(Debug)]
struct Pool {
    /// By class, the longest unused first; each with the time at which it was freed.
    free: BTreeMap<usize, VecDeque<(u64, Vec<f32>)>>,
    /// Number of blocks freed so far.
    clock: u64,
    /// Elements of all blocks in `free`.
    kept: usize,
    /// Elements of blocks in use, and the most there ever were.
    live: usize,
    peak: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool::EMPTY);

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most elements that tensors of the process had at a time, small ones apart.
pub(super) fn most_in_use() -> usize {
    pool().peak
}

impl Pool {
    const EMPTY: Self = Self {
        free: BTreeMap::new(),
        clock: 0,
        kept: 0,
        live: 0,
        peak: 0,
    };

    /// A free block of at least `class` elements and at most a quarter more, with its class. If
    /// there is none, a new block of `class` elements is counted as live: the caller makes it.
    fn take(&mut self, class: usize) -> Option<(Vec<f32>, usize)> {
        let mut near = self.free.range_mut(class..=class + class / 4);
        let found = near.find_map(|(&size, blocks)| Some((blocks.pop_back()?.1, size)));
        let size = found.as_ref().map_or(class, |f| f.1);
        self.live += size;
        self.peak = self.peak.max(self.live);
        match &found {
            Some(_) => self.kept -= size,
            None => self.trim(),
        }
        found
    }

    fn give(&mut self, block: Vec<f32>, class: usize) {
        self.live -= class;
        self.kept += class;
        self.clock += 1;
        let blocks = self.free.entry(class).or_default();
        blocks.push_back((self.clock, block));
    }

    /// Frees blocks, the longest unused first, until what is kept and what is live together do not
    /// exceed the most that was ever live: the pool costs no memory, though the teacher's blocks fit
    /// nothing of the student's, and text batches of ever new lengths leave blocks that nothing fits.
    fn trim(&mut self) {
        while self.kept > 0 && self.live + self.kept > self.peak {
            let age = |blocks: &VecDeque<(u64, Vec<f32>)>| Some(blocks.front()?.0);
            let oldest = self.free.iter().filter_map(|(&c, b)| Some((age(b)?, c)));
            let Some((_, class)) = oldest.min() else {
                return;
            };
            if let Some(blocks) = self.free.get_mut(&class)
                && blocks.pop_front().is_some()
            {
                self.kept -= class;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_lengths_and_waste_little() {
        for len in (KEEP..3 * KEEP).chain([1 << 20, (1 << 20) + 1, 3 * 777_777]) {
            let class = class(len);
            assert!(class >= len && class <= len + len / 8 + 1, "{len}: {class}");
            assert_eq!(super::class(class), class);
        }
    }

    #[test]
    fn a_freed_block_is_used_again() {
        let mut pool = Pool::EMPTY;
        assert!(pool.take(8192).is_none());
        let block = vec![0.0; 8192];
        let at = block.as_ptr();
        pool.give(block, 8192);
        let (block, class) = pool.take(7168).unwrap();
        assert_eq!((block.as_ptr(), class), (at, 8192));
        pool.give(block, class);
        assert!(pool.take(4096).is_none(), "twice as large is no fit");
    }

    #[test]
    fn what_is_kept_stays_near_what_was_in_use() {
        let mut pool = Pool::EMPTY;
        // Ever larger blocks: each is of no use to the next.
        for i in 0..40 {
            let class = class(5000 << (i / 3));
            let made = pool.take(class);
            let (block, class) = made.unwrap_or_else(|| (vec![0.0; class], class));
            pool.give(block, class);
            assert!(pool.live == 0 && pool.kept <= pool.peak);
        }
    }

    #[test]
    fn zeros_are_zeros_in_a_block_that_was_used() {
        let mut first = Memory::stale(KEEP);
        first.fill(7.0);
        drop(first);
        assert!(Memory::zeros(KEEP).iter().all(|&x| x == 0.0));
        assert_eq!(*Memory::copy_of(&[2.0; KEEP]), [2.0; KEEP]);
    }
}
