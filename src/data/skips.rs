//! The account of what was skipped, or read otherwise than it is written.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{Error, Result};

/// Examples kept for each kind.
const EXAMPLES: usize = 3;

/// What a [`SkipKind`] costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// One pair of image and text.
    Pair,
    /// The rest of a shard: nobody knows how many pairs.
    Shard,
    /// Nothing: worth knowing all the same.
    Nothing,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $cost:ident, $words:literal;)*) => {
        /// Why a sample, or what is left of a shard, was skipped; or what is worth knowing about the data.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum SkipKind {
            $($(#[$doc])* $kind,)*
        }

        impl SkipKind {
            /// All of them, in the order of an account.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// What it costs.
            pub fn cost(self) -> Cost {
                match self {
                    $(Self::$kind => Cost::$cost,)*
                }
            }

            /// Its name in accounts.
            pub fn words(self) -> &'static str {
                match self {
                    $(Self::$kind => $words,)*
                }
            }
        }
    };
}

kinds! {
    /// No image in the group.
    MissingImage, Pair, "missing image";
    /// The file of an image is not there.
    MissingFile, Pair, "missing file";
    /// No caption in the group.
    MissingCaption, Pair, "missing caption";
    /// A caption of blanks.
    EmptyCaption, Pair, "empty caption";
    /// A caption that is not UTF-8.
    NonUtf8Caption, Pair, "caption not UTF-8";
    /// The JSON that should hold the caption is malformed.
    MalformedJson, Pair, "malformed JSON";
    /// An image that cannot be decoded.
    UndecodableImage, Pair, "undecodable image";
    /// An image whose name has dots before its extension: webdataset ends the key at the first dot.
    DottedName, Pair, "name with dots";
    /// The rest of a truncated or damaged shard.
    DamagedShard, Shard, "truncated or damaged shard";
    /// A command that was to give a shard, and failed.
    FailedCommand, Shard, "failed command";
    /// A file within a shard too large to be an image or a text. A pair that it leaves incomplete is
    /// counted as such.
    OversizedEntry, Nothing, "oversized entry";
    /// A member of a shard that is a link, or a sparse file in the POSIX form, which is not read.
    NotAFile, Nothing, "link or sparse file not read";
    /// A file within a shard that no flag asks for.
    UnusedEntry, Nothing, "unused entry";
    /// Several tars in one file: those after the first end mark are read, too, unlike in webdataset.
    JoinedTars, Nothing, "tar after the end of a tar";
    /// Bytes after a tar's end that are no tar.
    TrailingBytes, Nothing, "bytes after the end of a tar";
    /// Sources of captions that say different things: the rule in the guide's `first_run` decides.
    OtherCaption, Nothing, "caption that differs from the one read";
    /// Malformed JSON beside a text that was read.
    IgnoredJson, Nothing, "malformed JSON beside a text";
    /// A text of several lines, read as one caption.
    SeveralLines, Nothing, "text of several lines read as one caption";
    /// JSON that only Python's reader takes: NaN, Infinity, a lone surrogate, a byte-order mark.
    LenientJson, Nothing, "JSON read as Python reads it";
}

impl fmt::Display for SkipKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// How much was looked at; 0 for what is not to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Pairs, unusable ones included.
    pub pairs: u64,
    /// Shards.
    pub shards: u64,
}

/// What was skipped or is worth knowing: a count for each kind, and a few examples with their reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips(BTreeMap<SkipKind, (u64, Vec<String>)>);

impl Skips {
    /// Counts one; `example` says where and why.
    pub fn add(&mut self, kind: SkipKind, example: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            // A decoder may quote bytes of a damaged file: no line end or terminal code among them.
            let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
            examples.push(example().chars().map(shown).collect());
        }
    }

    /// Counts `n` of a kind at once, known by these examples.
    pub fn put(&mut self, kind: SkipKind, n: u64, examples: Vec<String>) {
        let mut one = Self::default();
        one.0.insert(kind, (n, examples));
        self.merge(&one);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&kind, (n, more)) in &other.0 {
            let (count, examples) = self.0.entry(kind).or_default();
            *count += n;
            let room = EXAMPLES.saturating_sub(examples.len());
            examples.extend(more.iter().take(room).cloned());
        }
    }

    /// How many of one kind.
    pub fn count(&self, kind: SkipKind) -> u64 {
        self.0.get(&kind).map_or(0, |(n, _)| *n)
    }

    /// How many of all kinds that cost something.
    pub fn total(&self) -> u64 {
        self.of(|cost| cost != Cost::Nothing)
    }

    /// How many pairs are lost, as far as that is known.
    pub fn pairs(&self) -> u64 {
        self.of(|cost| cost == Cost::Pair)
    }

    /// How many shards were not read to their end.
    pub fn shards(&self) -> u64 {
        self.of(|cost| cost == Cost::Shard)
    }

    fn of(&self, counts: impl Fn(Cost) -> bool) -> u64 {
        let kinds = self.0.iter().filter(|(kind, _)| counts(kind.cost()));
        kinds.map(|(_, (n, _))| n).sum()
    }

    /// Whether no larger share than `most` of what was seen is lost.
    ///
    /// # Errors
    /// [`Error::TooManyBad`] with the counts.
    pub fn check(&self, seen: Seen, most: f64) -> Result<()> {
        let counts = [
            (self.pairs(), seen.pairs, "pairs"),
            (self.shards(), seen.shards, "shards"),
        ];
        for (lost, seen, what) in counts {
            if seen > 0 && lost as f64 > most * seen as f64 {
                return Err(Error::TooManyBad {
                    lost,
                    seen,
                    what,
                    most,
                    skips: self.only(|kind| kind.cost() != Cost::Nothing),
                });
            }
        }
        Ok(())
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Kind, count and examples, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (SkipKind, u64, &[String])> {
        self.0.iter().map(|(k, (n, e))| (*k, *n, e.as_slice()))
    }

    /// Those kinds only that `keep` keeps.
    pub fn only(&self, keep: impl Fn(SkipKind) -> bool) -> Self {
        let kept = self.0.iter().filter(|(kind, _)| keep(**kind));
        Self(kept.map(|(k, v)| (*k, v.clone())).collect())
    }
}

/// One line: `2 empty caption (a.tar: 0001), 1 undecodable image (…)`; `none` if there is nothing.
impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, (kind, count, examples)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {kind}")?;
            if let Some(example) = examples.first() {
                write!(f, " ({example})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_on_one_line() {
        let mut skips = Skips::default();
        skips.add(SkipKind::DamagedShard, || {
            "a.tar: not a number: \x1b[2J\r\n".into()
        });
        let text = skips.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(
            text.starts_with("1 truncated or damaged shard (a.tar: not"),
            "{text}"
        );
    }

    #[test]
    fn remarks_cost_nothing() {
        let mut skips = Skips::default();
        for kind in SkipKind::ALL {
            skips.add(*kind, String::new);
        }
        let sum = skips.pairs() + skips.shards();
        assert_eq!(skips.total(), sum);
        assert!(sum < SkipKind::ALL.len() as u64);
        assert_eq!(
            skips.only(|k| k.cost() == Cost::Pair).total(),
            skips.pairs()
        );
    }
}
