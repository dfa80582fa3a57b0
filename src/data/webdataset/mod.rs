//! Webdataset shards: tars whose consecutive members of one key form a sample.
//!
//! The key runs to the first dot of the file's name: `a/0001.jpg` and `a/0001.json` belong together. A
//! repeated extension begins a new sample, as in open_clip, so shards put one after the other stay apart. The
//! image is the first of `--image-key`'s members, the class is `.cls`, else the JSON's `class`; which texts are
//! captions [`CaptionSource`] says.
//!
//! Tars may be compressed by gzip, bzip2, xz or zstd. Of several tars in one file all are read.
//!
//! [`CaptionSource`]: super::options::CaptionSource

mod captions;
mod json;
mod members;

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::ControlFlow;

use serde_json::Value;

use self::captions::Texts;
pub use self::members::MAX_ENTRY_BYTES;
use self::members::{Budget, Keys, MAX_HEADER_BYTES, Member, Slot};
use super::bytes;
use super::error::Result;
use super::options::DatasetOptions;
use super::pattern::ShardSource;
use super::sample::{ImageBytes, Sample};
use super::skips::{SkipKind, Skips};

/// Of a tar.
const BLOCK: usize = 512;

/// Reads one shard from its beginning, giving `each` usable sample in order until it breaks.
///
/// What cannot be used is counted in `skips`. A truncated or damaged shard, or a command that fails, gives what
/// came before the damage.
///
/// # Errors
/// [`Error::Io`](super::error::Error::Io) if the shard cannot be opened.
pub fn read(
    source: &ShardSource,
    options: &DatasetOptions,
    skips: &mut Skips,
    each: &mut dyn FnMut(Sample) -> ControlFlow<()>,
) -> Result<()> {
    let opened = bytes::open(source)?;
    let mut reader = Reader {
        shard: source.name(),
        options,
        keys: Keys::of(options),
        group: None,
        skips,
        each,
    };
    let outcome = bytes::decompressed(opened.bytes).and_then(|bytes| reader.tars(bytes));
    let (shard, skips) = (reader.shard, reader.skips);
    let whole = matches!(outcome, Ok(ControlFlow::Continue(())));
    // A command that was stopped early failed through us; one that gave damage may say why.
    let failed = match opened.command {
        Some(command) if whole || outcome.is_err() => command.finish().err(),
        _ => None,
    };
    match (failed, outcome) {
        (Some(failed), outcome) => skips.add(SkipKind::FailedCommand, || match outcome {
            Ok(_) => format!("{shard}: {failed}"),
            Err(damage) => format!("{shard}: {failed}; what it gave {damage}"),
        }),
        (None, Err(damage)) => {
            skips.add(SkipKind::DamagedShard, || format!("{shard}: {damage}"));
        }
        (None, Ok(_)) => {}
    }
    Ok(())
}

struct Reader<'a> {
    shard: String,
    options: &'a DatasetOptions,
    keys: Keys,
    /// The sample whose members are being read.
    group: Option<Group>,
    skips: &'a mut Skips,
    each: &'a mut dyn FnMut(Sample) -> ControlFlow<()>,
}

impl Reader<'_> {
    /// Reads all the tars that `bytes` hold.
    fn tars(&mut self, bytes: Box<dyn Read + '_>) -> io::Result<ControlFlow<()>> {
        let mut bytes = BufReader::with_capacity(1 << 16, bytes);
        if self.tar(&mut bytes)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // An end mark, and zeros to a whole record: then usually nothing.
        while let Some(block) = next_block(&mut bytes)? {
            let shard = &self.shard;
            if !is_header(&block) {
                self.skips.add(SkipKind::TrailingBytes, || shard.clone());
                io::copy(&mut bytes, &mut io::sink())?;
                break;
            }
            self.skips.add(SkipKind::JoinedTars, || shard.clone());
            let mut rest = Cursor::new(block).chain(&mut bytes);
            if self.tar(&mut rest)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads one tar, to its end mark.
    fn tar(&mut self, bytes: &mut dyn Read) -> io::Result<ControlFlow<()>> {
        let left = Cell::new(MAX_HEADER_BYTES);
        let mut archive = tar::Archive::new(Budget { bytes, left: &left });
        let mut entries = 0u64;
        for entry in archive.entries()? {
            let member = entry.and_then(|mut entry| {
                entries += 1;
                left.set(entry.size().saturating_add(MAX_HEADER_BYTES));
                self.keys.read(&mut entry)
            });
            let flow = match member {
                Ok(member) => self.member(member),
                Err(damage) => {
                    // The last group may be whole; if it is not, the damage already says why.
                    if let Some(group) = self.group.take()
                        && let Ok(sample) = self.sample(group)
                        && (self.each)(sample).is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                    return Err(damage);
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        if entries == 0 {
            return Err(io::Error::other("holds no files"));
        }
        Ok(self.finish())
    }

    fn member(&mut self, member: Member) -> ControlFlow<()> {
        let mut note = |kind, path: String| {
            let shard = &self.shard;
            self.skips.add(kind, || format!("{shard}: {path}"));
        };
        match member {
            Member::File { key, slot, bytes } => {
                let goes_on = self.group.as_ref().is_some_and(|g| g.takes(&key, slot));
                if !goes_on {
                    let flow = self.finish();
                    self.group = Some(Group::new(key));
                    if flow.is_break() {
                        return flow;
                    }
                }
                if let Some(group) = &mut self.group {
                    group.members.push((slot, bytes));
                }
            }
            Member::Dotted(path) => note(SkipKind::DottedName, path),
            Member::Oversized(path) => note(SkipKind::OversizedEntry, path),
            Member::NotAFile(path) => note(SkipKind::NotAFile, path),
            Member::Unused(path) => note(SkipKind::UnusedEntry, path),
            Member::Nothing => {}
        }
        ControlFlow::Continue(())
    }

    /// Gives the sample whose members have been read.
    fn finish(&mut self) -> ControlFlow<()> {
        let Some(group) = self.group.take() else {
            return ControlFlow::Continue(());
        };
        let place = format!("{}: {}", self.shard, group.key);
        match self.sample(group) {
            Ok(sample) => (self.each)(sample),
            Err(kind) => {
                self.skips.add(kind, || place);
                ControlFlow::Continue(())
            }
        }
    }

    fn sample(&mut self, mut group: Group) -> Result<Sample, SkipKind> {
        let image = group
            .best(|slot| match slot {
                Slot::Image(i) => Some(i),
                _ => None,
            })
            .ok_or(SkipKind::MissingImage)?;
        let class = group.best(|slot| (slot == Slot::Class).then_some(0));
        let json = group.best(|slot| (slot == Slot::Json).then_some(0));
        // What is left are texts.
        group.members.sort_by_key(|(slot, _)| match slot {
            Slot::Text(i) => *i,
            _ => usize::MAX,
        });
        let texts = group.members.into_iter();
        let texts: Vec<Vec<u8>> = texts
            .filter(|(slot, _)| matches!(slot, Slot::Text(_)))
            .map(|(_, bytes)| bytes)
            .collect();
        let place = format!("{}: {}", self.shard, group.key);
        let texts = Texts {
            place: &place,
            members: &texts,
            json: json.as_deref(),
        };
        let (captions, json) = captions::read(&texts, self.options, self.skips);
        let captions = match captions {
            Err(_) if !self.options.require_caption => captions::Captions::default(),
            other => other?,
        };
        let class = match (class, json) {
            (Some(class), _) => String::from_utf8(class).ok(),
            (None, Some(json)) => match json.get("class") {
                Some(Value::String(class)) => Some(class.clone()),
                Some(Value::Number(class)) => Some(class.to_string()),
                _ => None,
            },
            _ => None,
        };
        let class = class.map(|c| c.trim().to_owned()).filter(|c| !c.is_empty());
        let image = ImageBytes::Bytes(image);
        let sample = Sample::new(group.key, image, captions.texts, class);
        Ok(sample.weighted(captions.weights))
    }
}

/// The members of one key.
struct Group {
    key: String,
    members: Vec<(Slot, Vec<u8>)>,
}

impl Group {
    fn new(key: String) -> Self {
        let members = Vec::new();
        Self { key, members }
    }

    /// Whether a member is of this sample; a second one of its kind is of the next.
    fn takes(&self, key: &str, slot: Slot) -> bool {
        self.key == key && !self.members.iter().any(|(s, _)| *s == slot)
    }

    /// Takes out the member for which `rank` gives the least number.
    fn best(&mut self, rank: impl Fn(Slot) -> Option<usize>) -> Option<Vec<u8>> {
        let ranked = self.members.iter().enumerate();
        let ranked = ranked.filter_map(|(i, (slot, _))| Some((rank(*slot)?, i)));
        let (_, place) = ranked.min()?;
        Some(self.members.swap_remove(place).1)
    }
}

/// The first block of `bytes` that is not all zeros.
fn next_block(bytes: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut block = Vec::with_capacity(BLOCK);
        bytes.take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(None);
        }
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
    }
}

/// Whether a block is a tar's header: its checksum says so.
fn is_header(block: &[u8]) -> bool {
    let Ok(block) = <[u8; BLOCK]>::try_from(block) else {
        return false;
    };
    let header = tar::Header::from_byte_slice(&block);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let own: u32 = block[148..156].iter().map(|b| u32::from(*b)).sum();
    header.cksum().is_ok_and(|said| said == sum - own + 8 * 32)
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
