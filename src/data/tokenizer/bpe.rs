//! Byte-pair encoding: the merge list, and one word's bytes into token ids.
//!
//! Ids are those of the reference's vocabulary: 256 bytes in an order of its own, the same 256 as
//! the last byte of a word, then one token a merge in the order of the list. So the rank of a
//! merge and the id of what it makes are one number, and no string is needed to merge.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

/// Single bytes, and single bytes that end a word.
pub(super) const BYTE_TOKENS: usize = 512;
/// Merges of the full vocabulary of 49 408.
pub(super) const MERGES: usize = 48_894;
/// Words up to this many bytes are merged by scanning, longer ones with a heap.
const SCAN_LIMIT: usize = 48;

static COMPRESSED: &[u8] = include_bytes!("../vocab/clip_bpe_merges.txt.gz");

/// The merge list of the full vocabulary.
pub(super) struct Merges {
    /// The id of each byte inside a word.
    byte_id: [i32; 256],
    /// The bytes of each token, and whether it ends a word.
    tokens: Vec<(Box<[u8]>, bool)>,
    /// The token that two neighbours make.
    made: HashMap<(i32, i32), i32>,
}

/// The list, parsed at first use.
pub(super) fn merges() -> &'static Merges {
    static MERGES: OnceLock<Merges> = OnceLock::new();
    MERGES.get_or_init(parse)
}

/// The reference names bytes by printable characters: itself where printable, else the next
/// character from U+0100 on. Returns (byte, character) in vocabulary order.
fn byte_names() -> Vec<(u8, char)> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let named = (0..=255).filter(printable).map(|b| (b, char::from(b)));
    let rest = (0..=255).filter(|b| !printable(b)).zip('\u{100}'..);
    named.chain(rest).collect()
}

fn parse() -> Merges {
    // The file is part of the program: that it reads is a property of the build, asserted by the
    // tests; should it not, the vocabulary is shorter and no input can make a difference to that.
    let mut text = String::new();
    let _ = GzDecoder::new(COMPRESSED).read_to_string(&mut text);

    let mut byte_id = [0; 256];
    let mut tokens: Vec<(Box<[u8]>, bool)> = Vec::with_capacity(BYTE_TOKENS + MERGES);
    let mut ids: HashMap<String, i32> = HashMap::with_capacity(BYTE_TOKENS + MERGES);
    let names = byte_names();
    for end in ["", "</w>"] {
        for &(byte, name) in &names {
            let id = tokens.len() as i32;
            if end.is_empty() {
                byte_id[usize::from(byte)] = id;
            }
            ids.insert(format!("{name}{end}"), id);
            tokens.push(([byte].into(), !end.is_empty()));
        }
    }
    let mut made = HashMap::with_capacity(MERGES);
    for line in text.lines().skip(1).take(MERGES) {
        let Some((left, right)) = line.split_once(' ') else {
            break;
        };
        let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) else {
            break;
        };
        let id = tokens.len() as i32;
        made.insert((a, b), id);
        ids.insert(format!("{left}{right}"), id);
        let (left, (right, ends)) = (&tokens[a as usize].0, &tokens[b as usize]);
        tokens.push(([&left[..], right].concat().into(), *ends));
    }
    Merges {
        byte_id,
        tokens,
        made,
    }
}

impl Merges {
    /// The bytes that a token stands for, and whether it ends a word.
    pub(super) fn token(&self, id: usize) -> Option<(&[u8], bool)> {
        self.tokens.get(id).map(|(bytes, ends)| (&bytes[..], *ends))
    }

    /// The ids of one word, with only those merges whose id is below `limit`.
    pub(super) fn encode(&self, word: &[u8], limit: i32) -> Vec<i32> {
        let mut ids: Vec<i32> = word.iter().map(|&b| self.byte_id[usize::from(b)]).collect();
        if let Some(last) = ids.last_mut() {
            *last += 256;
        }
        if ids.len() <= SCAN_LIMIT {
            self.merge_by_scan(ids, limit)
        } else {
            self.merge_by_heap(ids, limit)
        }
    }

    fn merge(&self, a: i32, b: i32, limit: i32) -> Option<i32> {
        self.made.get(&(a, b)).copied().filter(|&id| id < limit)
    }

    /// Merges the earliest-ranked, leftmost pair until no pair merges: quadratic, but without any
    /// overhead, and words are short.
    fn merge_by_scan(&self, mut ids: Vec<i32>, limit: i32) -> Vec<i32> {
        // What each neighbouring pair makes, kept beside the symbols so that a merge looks up
        // only the two pairs that it changes.
        let mut makes: Vec<i32> = ids
            .windows(2)
            .map(|w| self.merge(w[0], w[1], limit).unwrap_or(i32::MAX))
            .collect();
        while let Some((at, &id)) = makes.iter().enumerate().min_by_key(|(_, id)| **id)
            && id != i32::MAX
        {
            ids[at] = id;
            ids.remove(at + 1);
            makes.remove(at);
            if at > 0 {
                makes[at - 1] = self.merge(ids[at - 1], id, limit).unwrap_or(i32::MAX);
            }
            if at + 1 < ids.len() {
                makes[at] = self.merge(id, ids[at + 1], limit).unwrap_or(i32::MAX);
            }
        }
        ids
    }

    /// The same in n log n, so that a "word" of a megabyte (a line of emoji, a text without
    /// spaces) does not stall a run. A merged token's rank is always later than its parts', so
    /// taking pairs by (rank, position) merges all occurrences of one pair from left to right.
    fn merge_by_heap(&self, mut ids: Vec<i32>, limit: i32) -> Vec<i32> {
        const GONE: i32 = -1;
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<Option<usize>> = (0..n).map(|i| i.checked_sub(1)).collect();
        let mut heap: BinaryHeap<Reverse<(i32, usize)>> = ids
            .windows(2)
            .enumerate()
            .filter_map(|(i, w)| self.merge(w[0], w[1], limit).map(|id| Reverse((id, i))))
            .collect();
        while let Some(Reverse((id, at))) = heap.pop() {
            let right = next[at];
            // An entry is stale once either side was merged away or became another token.
            if ids[at] == GONE || right >= n || self.merge(ids[at], ids[right], limit) != Some(id) {
                continue;
            }
            ids[at] = id;
            ids[right] = GONE;
            next[at] = next[right];
            if next[at] < n {
                previous[next[at]] = Some(at);
                if let Some(made) = self.merge(id, ids[next[at]], limit) {
                    heap.push(Reverse((made, at)));
                }
            }
            if let Some(left) = previous[at]
                && let Some(made) = self.merge(ids[left], id, limit)
            {
                heap.push(Reverse((made, left)));
            }
        }
        ids.retain(|&id| id != GONE);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole() {
        let m = merges();
        assert_eq!(m.tokens.len(), BYTE_TOKENS + MERGES);
        assert_eq!(m.made.len(), MERGES);
    }

    #[test]
    fn a_merge_comes_after_its_parts() {
        assert!(merges().made.iter().all(|((a, b), id)| a < id && b < id));
    }

    #[test]
    fn scan_and_heap_agree() {
        let m = merges();
        let word =
            "aaaaathethethedonaudampfschifffahrtsgesellschaftskapitänsmützeaaahahahaha😀😀😀";
        for limit in [512, 600, 2048, 49_406] {
            for (start, _) in word.char_indices() {
                let ids: Vec<i32> = word[start..]
                    .bytes()
                    .map(|b| m.byte_id[usize::from(b)])
                    .collect();
                assert_eq!(
                    m.merge_by_scan(ids.clone(), limit),
                    m.merge_by_heap(ids, limit)
                );
            }
        }
    }
}
