//! How many pairs a dataset holds: as its writer says, as they were counted before, or by reading all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Dataset;
use super::error::Result;
use super::options::DatasetOptions;
use super::pattern::{ShardSource, is_tar};
use super::skips::{SkipKind, Skips};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Pairs in a round, each as often as its upsampling factor says.
    pub pairs: u64,
    /// What of them is unusable, as far as it was counted. Images were not decoded.
    pub skips: Skips,
    /// Shards whose number of pairs their writer says, in `sizes.json` or `__len__` beside them.
    pub declared: usize,
    /// Shards whose count was kept from an earlier start.
    pub kept: usize,
    /// Shards that were read to count them.
    pub read: usize,
}

impl Counted {
    /// How many pairs there are and how that is known; `None` where nothing was counted in shards.
    pub fn words(&self) -> Option<String> {
        let ways = [
            (self.declared, "by sizes.json or __len__ beside them"),
            (self.kept, "as counted before"),
            (self.read, "as counted now"),
        ];
        let known = ways.iter().filter(|(n, _)| *n > 0);
        let known: Vec<String> = known.map(|(n, how)| format!("{n} {how}")).collect();
        let shards = self.declared + self.kept + self.read;
        (shards > 0).then(|| {
            let pairs = self.pairs;
            format!(
                "{pairs} pairs in an epoch of {shards} shards: {}",
                known.join(", ")
            )
        })
    }
}

impl Dataset {
    /// Counts the pairs of a round. Shards are read, as far as neither their writer nor `cache` knows them: minutes
    /// for large data.
    ///
    /// # Errors
    /// [`Error::Io`](super::Error::Io) for a shard that cannot be opened.
    pub fn count(&self, mut cache: Option<&mut CountCache>) -> Result<Counted> {
        if let Some((rows, skips)) = self.rows() {
            return Ok(Counted {
                pairs: rows as u64,
                skips,
                ..Counted::default()
            });
        }
        let shards = self.shards().unwrap_or_default();
        let declared = Declared::beside(shards.iter().map(|(shard, _)| shard));
        let mut counted = Counted::default();
        let mut pairs = 0.0;
        for (part, (shard, factor)) in shards.iter().enumerate() {
            let factor = f64::from(*factor);
            if let Some(n) = declared.of(shard) {
                counted.declared += 1;
                pairs += n * factor;
                continue;
            }
            let key = Key::of(shard, self.options());
            let known = key.as_ref().and_then(|k| cache.as_deref()?.get(k));
            let (n, skips) = match known {
                Some(known) => {
                    counted.kept += 1;
                    known
                }
                None => {
                    counted.read += 1;
                    let found = self.count_part(part)?;
                    if let (Some(cache), Some(key)) = (cache.as_deref_mut(), key) {
                        cache.put(key, &found);
                    }
                    found
                }
            };
            pairs += n as f64 * factor;
            counted.skips.merge(&skips);
        }
        counted.pairs = (pairs + 1e-6) as u64;
        Ok(counted)
    }
}

/// What the writers of shards say beside them, as open_clip reads it: `sizes.json` with a number for each file, or
/// `__len__` with that of all tars in the folder.
#[derive(Default)]
struct Declared {
    each: HashMap<PathBuf, f64>,
}

impl Declared {
    fn beside<'a>(shards: impl Iterator<Item = &'a ShardSource>) -> Self {
        let mut folders: HashMap<&Path, HashSet<&OsStr>> = HashMap::new();
        for shard in shards {
            if let ShardSource::Path(path) = shard
                && let (Some(folder), Some(name)) = (path.parent(), path.file_name())
            {
                folders.entry(folder).or_default().insert(name);
            }
        }
        let mut all = Self::default();
        for (folder, names) in folders {
            let sizes = sizes(folder);
            let whole = whole(folder, &names);
            for name in names {
                let size = sizes.get(&*name.to_string_lossy()).copied().or(whole);
                if let Some(size) = size {
                    all.each.insert(folder.join(name), size);
                }
            }
        }
        all
    }

    fn of(&self, shard: &ShardSource) -> Option<f64> {
        match shard {
            ShardSource::Path(path) => self.each.get(path).copied(),
            _ => None,
        }
    }
}

/// The numbers of `sizes.json`, none if it is not there or says nothing.
fn sizes(folder: &Path) -> HashMap<String, f64> {
    let text = std::fs::read(folder.join("sizes.json")).unwrap_or_default();
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let Value::Object(sizes) = value else {
        return HashMap::new();
    };
    let number = |value: Value| match value {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let each = sizes.into_iter();
    each.filter_map(|(name, n)| Some((name, number(n)? as f64)))
        .collect()
}

/// What `__len__` makes for each of `names`, if they are all the tars of the folder.
fn whole(folder: &Path, names: &HashSet<&OsStr>) -> Option<f64> {
    let text = std::fs::read_to_string(folder.join("__len__")).ok()?;
    let all: u64 = text.trim().parse().ok()?;
    let files = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let tars = files.filter(|f| is_tar(&f.file_name().to_string_lossy()));
    (tars.count() == names.len()).then(|| all as f64 / names.len() as f64)
}

/// Counts of shards that were read once, in a file.
#[derive(Debug, Default)]
pub struct CountCache {
    path: PathBuf,
    known: BTreeMap<String, Known>,
    changed: bool,
}

/// The file of a shard as it was when it was counted, and by which rule.
#[derive(PartialEq, Eq)]
struct Key {
    path: String,
    bytes: u64,
    modified: u64,
    rule: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified: u64,
    rule: String,
    pairs: u64,
    skipped: BTreeMap<String, (u64, Vec<String>)>,
}

impl Key {
    fn of(shard: &ShardSource, options: &DatasetOptions) -> Option<Self> {
        let ShardSource::Path(path) = shard else {
            return None;
        };
        let path = path.canonicalize().ok()?;
        let about = path.metadata().ok()?;
        let modified = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            path: path.to_str()?.to_owned(),
            bytes: about.len(),
            modified: u64::try_from(modified.as_nanos()).ok()?,
            rule: format!(
                "{} {:?} {} {}",
                options.image_keys.join(";"),
                options.captions,
                options.caption_lines,
                options.require_caption
            ),
        })
    }
}

impl CountCache {
    /// Reads the file at `path`. One that is not there, or is no such file, holds nothing.
    pub fn open(path: PathBuf) -> Self {
        let text = std::fs::read(&path).unwrap_or_default();
        Self {
            path,
            known: serde_json::from_slice(&text).unwrap_or_default(),
            changed: false,
        }
    }

    fn get(&self, key: &Key) -> Option<(u64, Skips)> {
        let known = self.known.get(&key.path)?;
        let same =
            (known.bytes, known.modified, &known.rule) == (key.bytes, key.modified, &key.rule);
        if !same {
            return None;
        }
        let mut skips = Skips::default();
        for (words, (n, examples)) in &known.skipped {
            let kind = SkipKind::ALL.iter().find(|k| k.words() == words)?;
            skips.put(*kind, *n, examples.clone());
        }
        Some((known.pairs, skips))
    }

    fn put(&mut self, key: Key, (pairs, skips): &(u64, Skips)) {
        // A damaged shard may still be growing, or be mended.
        if skips.shards() > 0 {
            return;
        }
        let each = skips.iter();
        let skipped = each.map(|(kind, n, e)| (kind.words().to_owned(), (n, e.to_vec())));
        let known = Known {
            bytes: key.bytes,
            modified: key.modified,
            rule: key.rule,
            pairs: *pairs,
            skipped: skipped.collect(),
        };
        self.known.insert(key.path, known);
        self.changed = true;
    }

    /// Writes the file, if anything was counted.
    ///
    /// # Errors
    /// The system's, which costs no more than counting again.
    pub fn save(&self) -> std::io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_vec(&self.known)?;
        let part = self.path.with_extension("part");
        std::fs::write(&part, text)?;
        std::fs::rename(&part, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::webdataset::tests::tar_of;
    use super::*;

    fn folder_of(shards: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..shards {
            let tar = tar_of(&[("1.jpg", b"J"), ("1.txt", b"t"), ("2.jpg", b"J")]);
            std::fs::write(folder.path().join(format!("{i}.tar")), tar).unwrap();
        }
        folder
    }

    fn open(folder: &Path, names: &str) -> Dataset {
        let patterns = format!("{}/{names}", folder.display());
        Dataset::from_patterns(&patterns, DatasetOptions::default()).unwrap()
    }

    #[test]
    fn counting_reads_everything_once() {
        let folder = folder_of(4);
        let data = open(folder.path(), "*.tar");
        let counted = data.count(None).unwrap();
        assert_eq!(
            (counted.pairs, counted.skips.total(), counted.read),
            (4, 4, 4)
        );
        let path = folder.path().join("logs/counts.json");
        let mut cache = CountCache::open(path.clone());
        data.count(Some(&mut cache)).unwrap();
        cache.save().unwrap();
        // One shard grows; the others are known.
        let tar = tar_of(&[
            ("1.jpg", b"J"),
            ("1.txt", b"t"),
            ("2.jpg", b"J"),
            ("2.txt", b"t"),
        ]);
        std::fs::write(folder.path().join("3.tar"), [tar, vec![0; 512]].concat()).unwrap();
        let mut cache = CountCache::open(path.clone());
        let counted = data.count(Some(&mut cache)).unwrap();
        assert_eq!((counted.pairs, counted.kept, counted.read), (5, 3, 1));
        assert_eq!(counted.skips.count(SkipKind::MissingCaption), 3);
        assert!(
            counted.skips.to_string().contains("0.tar: 2"),
            "{}",
            counted.skips
        );
        // Another rule makes another count.
        let options = DatasetOptions {
            require_caption: false,
            ..DatasetOptions::default()
        };
        let patterns = format!("{}/*.tar", folder.path().display());
        let images = Dataset::from_patterns(&patterns, options).unwrap();
        assert_eq!(images.count(Some(&mut cache)).unwrap().pairs, 8);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(
            data.count(Some(&mut CountCache::open(path))).unwrap().read,
            4
        );
    }

    #[test]
    fn the_writers_word_spares_counting() {
        let folder = folder_of(4);
        let sizes = r#"{"0.tar": 10, "1.tar": "20", "2.tar": null, "9.tar": 5}"#;
        std::fs::write(folder.path().join("sizes.json"), sizes).unwrap();
        let counted = open(folder.path(), "*.tar").count(None).unwrap();
        assert_eq!((counted.pairs, counted.declared, counted.read), (32, 2, 2));
        std::fs::remove_file(folder.path().join("sizes.json")).unwrap();
        std::fs::write(folder.path().join("__len__"), "100\n").unwrap();
        let all = open(folder.path(), "*.tar").count(None).unwrap();
        assert_eq!((all.pairs, all.declared), (100, 4));
        // It says nothing of some of the shards.
        let some = open(folder.path(), "{0..1}.tar").count(None).unwrap();
        assert_eq!((some.pairs, some.declared), (2, 0));
    }

    #[test]
    fn factors_lengthen_a_round() {
        let folder = folder_of(4);
        let root = folder.path().display();
        let groups = |n: &str| {
            super::super::pattern::expand_groups(&format!("{root}/{{0..1}}.tar::{root}/{n}"))
        };
        let data = |factors: &[f32]| {
            let groups = groups("{2..3}.tar").unwrap();
            Dataset::upsampled(groups, Some(factors), DatasetOptions::default()).unwrap()
        };
        assert_eq!(data(&[3.0, 1.0]).count(None).unwrap().pairs, 8);
        assert_eq!(data(&[0.1, 0.7]).count(None).unwrap().pairs, 1);
    }
}
