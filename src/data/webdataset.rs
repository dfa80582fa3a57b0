//! Webdataset shards: tars, plain or gzipped, whose consecutive entries of one base name form a
//! sample.
//!
//! The base name runs to the first dot of the file's name: `a/0001.jpg` and `a/0001.json` belong
//! together. A repeated extension begins a new sample, as in open_clip, so shards put one after
//! the other stay apart. The image is the first of jpg, png, jpeg, webp; the caption is the text
//! of `.txt`, else the JSON's caption; the class is `.cls`, else the JSON's `class`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use super::error::{Error, Result};
use super::options::DatasetOptions;
use super::pattern::ShardSource;
use super::sample::{ImageBytes, Sample, SkipKind, Skips};

/// Files within a shard larger than this are skipped: a gzip bomb must not fill the memory.
pub const MAX_ENTRY_BYTES: u64 = 256 << 20;

/// Headers of one file, extension records included, larger than this end the shard: the archive's reader
/// holds the long names and attributes in them in memory, whatever their size.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Extensions of images, the preferred one first.
const IMAGES: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// Reads one shard from its beginning, giving `each` usable sample in order until it breaks.
///
/// What cannot be used is counted in `skips`. A truncated or damaged shard gives what came before
/// the damage.
///
/// # Errors
/// [`Error::Io`] if the shard cannot be opened.
pub fn read(
    source: &ShardSource,
    options: &DatasetOptions,
    skips: &mut Skips,
    each: &mut dyn FnMut(Sample) -> ControlFlow<()>,
) -> Result<()> {
    let name = source.name();
    let bytes: Box<dyn BufRead + '_> = match source {
        ShardSource::Path(path) => {
            let file = File::open(path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
            Box::new(BufReader::with_capacity(1 << 18, file))
        }
        ShardSource::Memory { bytes, .. } => Box::new(*bytes),
    };
    if let Err(damage) = read_entries(bytes, &name, options, skips, each) {
        skips.add(SkipKind::DamagedShard, format!("{name}: {damage}"));
    }
    Ok(())
}

fn read_entries(
    mut bytes: Box<dyn BufRead + '_>,
    shard: &str,
    options: &DatasetOptions,
    skips: &mut Skips,
    each: &mut dyn FnMut(Sample) -> ControlFlow<()>,
) -> io::Result<()> {
    let gzipped = bytes.fill_buf()?.starts_with(&[0x1F, 0x8B]);
    let bytes: Box<dyn Read + '_> = if gzipped {
        Box::new(MultiGzDecoder::new(bytes))
    } else {
        bytes
    };
    let left = Cell::new(MAX_HEADER_BYTES);
    let mut archive = tar::Archive::new(Budget { bytes, left: &left });
    let mut group = Group::default();
    let mut entries = 0u64;
    let mut finish = |group: Group, skips: &mut Skips| -> ControlFlow<()> {
        if group.base.is_empty() {
            return ControlFlow::Continue(());
        }
        let place = format!("{shard}: {}", group.base);
        match group.into_sample(options) {
            Ok(sample) => each(sample),
            Err(kind) => {
                skips.add(kind, place);
                ControlFlow::Continue(())
            }
        }
    };
    for entry in archive.entries()? {
        let read = entry.and_then(|mut entry| {
            entries += 1;
            left.set(entry.size().saturating_add(MAX_HEADER_BYTES));
            read_entry(&mut entry)
        });
        match read {
            Ok(Entry::Other) => {}
            Ok(Entry::Oversized(path)) => {
                skips.add(SkipKind::OversizedEntry, format!("{shard}: {path}"));
            }
            Ok(Entry::File { base, kind, bytes }) => {
                if base != group.base || group.holds(kind) {
                    let done = std::mem::replace(&mut group, Group::of(base));
                    if finish(done, skips).is_break() {
                        return Ok(());
                    }
                }
                group.put(kind, bytes);
            }
            Err(damage) => {
                // The last group may be whole; if it is not, the damage already says why.
                if let Ok(sample) = group.into_sample(options) {
                    let _ = each(sample);
                }
                return Err(damage);
            }
        }
    }
    let _ = finish(group, skips);
    if entries == 0 {
        return Err(io::Error::other("holds no files"));
    }
    Ok(())
}

/// A reader that gives `left` bytes at most, then an error.
struct Budget<'a, R> {
    bytes: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Budget<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).map_or(buffer.len(), |l| l.min(buffer.len()));
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other("an entry's header is far too large"));
        }
        let n = self.bytes.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - n as u64);
        Ok(n)
    }
}

/// What a file within a group is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Index into [`IMAGES`].
    Image(usize),
    Text,
    Json,
    Class,
}

enum Entry {
    File {
        base: String,
        kind: Kind,
        bytes: Vec<u8>,
    },
    /// A file that belongs to no sample, or that no sample needs.
    Other,
    Oversized(String),
}

fn read_entry(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Entry> {
    if !entry.header().entry_type().is_file() {
        return Ok(Entry::Other);
    }
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let name_at = path.rfind('/').map_or(0, |i| i + 1);
    let Some((stem, extension)) = path[name_at..].split_once('.') else {
        return Ok(Entry::Other);
    };
    // Names beginning with two underscores are webdataset's own metadata.
    if stem.is_empty() || stem.starts_with("__") {
        return Ok(Entry::Other);
    }
    let extension = extension.to_ascii_lowercase();
    let kind = match extension.as_str() {
        "txt" => Kind::Text,
        "json" => Kind::Json,
        "cls" => Kind::Class,
        other => match IMAGES.iter().position(|i| *i == other) {
            Some(i) => Kind::Image(i),
            None => return Ok(Entry::Other),
        },
    };
    let size = entry.size();
    if size > MAX_ENTRY_BYTES {
        return Ok(Entry::Oversized(path));
    }
    let mut bytes = Vec::new();
    entry.take(MAX_ENTRY_BYTES).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("ends within {path}"),
        ));
    }
    let base = path[..name_at + stem.len()].to_owned();
    Ok(Entry::File { base, kind, bytes })
}

/// The files of one base name.
#[derive(Default)]
struct Group {
    base: String,
    images: [Option<Vec<u8>>; 4],
    text: Option<Vec<u8>>,
    json: Option<Vec<u8>>,
    class: Option<Vec<u8>>,
}

impl Group {
    fn of(base: String) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    fn slot(&mut self, kind: Kind) -> &mut Option<Vec<u8>> {
        match kind {
            Kind::Image(i) => &mut self.images[i],
            Kind::Text => &mut self.text,
            Kind::Json => &mut self.json,
            Kind::Class => &mut self.class,
        }
    }

    fn holds(&mut self, kind: Kind) -> bool {
        self.slot(kind).is_some()
    }

    fn put(&mut self, kind: Kind, bytes: Vec<u8>) {
        *self.slot(kind) = Some(bytes);
    }

    fn into_sample(self, options: &DatasetOptions) -> Result<Sample, SkipKind> {
        let image = self
            .images
            .into_iter()
            .flatten()
            .next()
            .ok_or(SkipKind::MissingImage)?;
        // Malformed JSON matters only where the caption would have come from it.
        let json: Option<Result<Value, SkipKind>> = self
            .json
            .map(|b| serde_json::from_slice(&b).map_err(|_| SkipKind::MalformedJson));
        let captions = match (self.text, &json) {
            (Some(text), _) => text_captions(text, options.caption_lines),
            (None, Some(Ok(json))) => json_captions(json, &options.caption_key),
            (None, Some(Err(kind))) => Err(*kind),
            (None, None) => Err(SkipKind::MissingCaption),
        };
        let captions = match captions {
            Err(_) if !options.require_caption => Vec::new(),
            other => other?,
        };
        let class = match (self.class, json) {
            (Some(class), _) => String::from_utf8(class).ok(),
            (None, Some(Ok(json))) => match json.get("class") {
                Some(Value::String(class)) => Some(class.clone()),
                Some(Value::Number(class)) => Some(class.to_string()),
                _ => None,
            },
            _ => None,
        };
        let class = class.map(|c| c.trim().to_owned()).filter(|c| !c.is_empty());
        let image = ImageBytes::Bytes(image);
        Ok(Sample::new(self.base, image, captions, class))
    }
}

fn text_captions(text: Vec<u8>, lines: bool) -> Result<Vec<String>, SkipKind> {
    let text = String::from_utf8(text).map_err(|_| SkipKind::NonUtf8Caption)?;
    if lines {
        without_empty(text.lines())
    } else {
        without_empty([text.as_str()])
    }
}

fn json_captions(json: &Value, key: &str) -> Result<Vec<String>, SkipKind> {
    let value = match (json.get("captions"), json.get(key)) {
        (Some(Value::Array(all)), _) if !all.is_empty() => Value::Array(all.clone()),
        (_, Some(value)) => value.clone(),
        _ => return Err(SkipKind::MissingCaption),
    };
    match &value {
        Value::String(one) => without_empty([one.as_str()]),
        Value::Array(all) => without_empty(all.iter().filter_map(Value::as_str)),
        _ => Err(SkipKind::MissingCaption),
    }
}

fn without_empty<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, SkipKind> {
    let kept: Vec<String> = texts
        .into_iter()
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .map(str::to_owned)
        .collect();
    if kept.is_empty() {
        return Err(SkipKind::EmptyCaption);
    }
    Ok(kept)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A tar of these files.
    pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read_all(bytes: Vec<u8>, options: &DatasetOptions) -> (Vec<Sample>, Skips) {
        let source = ShardSource::Memory {
            name: "test.tar".into(),
            bytes: bytes.leak(),
        };
        let (mut samples, mut skips) = (Vec::new(), Skips::default());
        read(&source, options, &mut skips, &mut |s| {
            samples.push(s);
            ControlFlow::Continue(())
        })
        .unwrap();
        (samples, skips)
    }

    #[test]
    fn groups_by_base_name_and_reads_every_source_of_texts() {
        let tar = tar_of(&[
            ("a/1.jpg", b"J"),
            ("a/1.txt", b" one \n"),
            ("a/1.cls", b"3\n"),
            ("b/1.png", b"P"),
            ("b/1.json", br#"{"caption": "two", "class": "cat"}"#),
            ("__meta.json", b"{}"),
            ("c.x.jpg", b"ignored"),
            ("d.WEBP", b"W"),
            ("d.json", br#"{"captions": ["x", " ", "y"], "class": 7}"#),
            ("d.jpg", b"preferred"),
            ("d.jpg", b"again"),
            ("d.txt", b"repeated"),
        ]);
        let (samples, skips) = read_all(tar, &DatasetOptions::default());
        assert_eq!(skips.total(), 0, "{skips}");
        let seen: Vec<_> = samples
            .iter()
            .map(|s| (s.key.as_str(), s.captions.join("|"), s.class.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                ("a/1", "one".to_owned(), Some("3")),
                ("b/1", "two".to_owned(), Some("cat")),
                ("d", "x|y".to_owned(), Some("7")),
                ("d", "repeated".to_owned(), None),
            ]
        );
        assert!(matches!(&samples[2].image, ImageBytes::Bytes(b) if b == b"preferred"));
    }

    #[test]
    fn every_skip_is_counted() {
        let tar = tar_of(&[
            ("1.jpg", b"J"),
            ("2.txt", b"no image"),
            ("3.jpg", b"J"),
            ("3.txt", b" \n"),
            ("4.jpg", b"J"),
            ("4.txt", b"\xFF\xFE"),
            ("5.jpg", b"J"),
            ("5.json", b"{"),
            ("6.jpg", b"J"),
            ("6.json", br#"{"caption": 5}"#),
            ("7.jpg", b"J"),
            ("7.txt", b"fine"),
        ]);
        let (samples, skips) = read_all(tar.clone(), &DatasetOptions::default());
        assert_eq!(samples.len(), 1);
        for (kind, count) in [
            (SkipKind::MissingImage, 1),
            (SkipKind::MissingCaption, 2),
            (SkipKind::EmptyCaption, 1),
            (SkipKind::NonUtf8Caption, 1),
            (SkipKind::MalformedJson, 1),
        ] {
            assert_eq!(skips.count(kind), count, "{kind}");
        }
        assert!(skips.to_string().contains("test.tar: 4"), "{skips}");
        let relaxed = DatasetOptions {
            require_caption: false,
            ..DatasetOptions::default()
        };
        assert_eq!(read_all(tar, &relaxed).0.len(), 6);
    }

    #[test]
    fn a_truncated_tar_gives_what_came_before() {
        let picture = vec![7u8; 5000];
        let tar = tar_of(&[
            ("1.jpg", &picture),
            ("1.txt", b"one"),
            ("2.jpg", &picture),
            ("2.txt", b"two"),
        ]);
        // The first sample takes 512 + 5120 + 1024 bytes.
        for (cut, whole, damaged) in [
            (0, 0, 1),
            (100, 0, 1),
            (512, 0, 1),
            (3000, 0, 1),
            (6656 + 300, 1, 1),
            (6656 + 3000, 1, 1),
            (tar.len() - 1024 - 512 - 1, 1, 1),
            (tar.len(), 2, 0),
        ] {
            let (samples, skips) = read_all(tar[..cut].to_vec(), &DatasetOptions::default());
            assert_eq!(samples.len(), whole, "cut at {cut}");
            assert_eq!(skips.count(SkipKind::DamagedShard), damaged, "cut at {cut}");
        }
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&tar).unwrap();
        let zipped = zipped.finish().unwrap();
        assert_eq!(
            read_all(zipped.clone(), &DatasetOptions::default()).0.len(),
            2
        );
        let (_, skips) = read_all(
            zipped[..zipped.len() - 30].to_vec(),
            &DatasetOptions::default(),
        );
        assert_eq!(skips.count(SkipKind::DamagedShard), 1);
    }

    /// Megabytes of zeros are kilobytes of gzip: a long name must not fill the memory.
    #[test]
    fn a_name_of_megabytes_ends_the_shard() {
        let mut long = tar::Header::new_gnu();
        long.set_entry_type(tar::EntryType::GNULongName);
        long.set_path("././@LongLink").unwrap();
        let name = vec![b'n'; 4 << 20];
        long.set_size(name.len() as u64);
        long.set_cksum();
        // Before it, a file that is larger than any header may be.
        let picture = vec![7u8; 3 << 20];
        let before = tar_of(&[("1.jpg", &picture), ("1.txt", b"one")]);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&long, name.as_slice()).unwrap();
        let tar = [
            &before[..before.len() - 1024],
            &builder.into_inner().unwrap(),
        ]
        .concat();
        let (samples, skips) = read_all(tar, &DatasetOptions::default());
        assert_eq!(samples.len(), 1);
        assert!(skips.to_string().contains("far too large"), "{skips}");
    }

    #[test]
    fn garbage_is_reported() {
        let (samples, skips) = read_all(vec![0xA5; 4096], &DatasetOptions::default());
        assert!(samples.is_empty());
        assert_eq!(skips.count(SkipKind::DamagedShard), 1);
    }
}
