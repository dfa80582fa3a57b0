//! The demo corpus: emoji drawings with their names, small enough to be part of the program.
//!
//! Webdataset shards of 32-pixel PNGs, read by the same reader as a user's data. Styles and
//! concepts are held out as CLIP's usual test sets hold out domains and classes. README.md in this
//! folder says where the drawings are from and how the shards are made again.

/// The word by which flags name what is inside the program: this corpus, and the teacher and student made
/// for it.
pub const DEMO: &str = "demo";

/// A part of the demo corpus, one gzipped tar each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the demo trains on: each training concept as drawn by Noto and by EmojiTwo.
    Train,
    /// The training concepts in a style never trained on: the demo's "ImageNet-V2".
    Twemoji,
    /// The training concepts in black and white: the demo's "ImageNet-Sketch".
    Sketch,
    /// Concepts never trained on, as drawn by Noto and by Twemoji.
    Unseen,
}

impl Split {
    /// All splits.
    pub const ALL: [Split; 4] = [Split::Train, Split::Twemoji, Split::Sketch, Split::Unseen];

    /// The name of the split, as in the shard's file name.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Twemoji => "twemoji",
            Split::Sketch => "sketch",
            Split::Unseen => "unseen",
        }
    }

    /// How many samples the split has.
    pub fn samples(self) -> usize {
        match self {
            Split::Train => 2 * CLASSES,
            Split::Twemoji | Split::Sketch => CLASSES,
            Split::Unseen => 2 * UNSEEN_CLASSES,
        }
    }
}

/// Width and height of every image of the corpus.
pub const SIDE: usize = 32;
/// Concepts in the training shard.
pub const CLASSES: usize = 944;
/// Concepts held out of it.
pub const UNSEEN_CLASSES: usize = 127;

/// The shard of a split: a gzipped webdataset tar of `<style>-<id>.png` and `.json`, the latter
/// with `caption`, `captions`, `class`, `group` and `subgroup`.
pub fn shards(split: Split) -> &'static [u8] {
    match split {
        Split::Train => include_bytes!("train.tar.gz"),
        Split::Twemoji => include_bytes!("twemoji.tar.gz"),
        Split::Sketch => include_bytes!("sketch.tar.gz"),
        Split::Unseen => include_bytes!("unseen.tar.gz"),
    }
}

/// The training concepts, each name once, in the order that class indices mean.
pub fn class_names() -> Vec<String> {
    include_str!("classes.txt")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The held-out concepts, likewise.
pub fn unseen_class_names() -> Vec<String> {
    include_str!("unseen_classes.txt")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Prompts for zero-shot classification, `{c}` standing for the class name; the corpus' captions
/// are written in the same manner.
pub fn templates() -> &'static [&'static str] {
    &[
        "{c}",
        "an emoji of {c}",
        "a picture of {c}.",
        "a drawing of {c}",
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::Read;

    use super::*;

    /// File names and contents of a split.
    fn files(split: Split) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(shards(split)));
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(files.insert(name.clone(), bytes).is_none(), "{name} twice");
        }
        files
    }

    /// For each style of a split, the classes of its samples.
    fn classes_by_style(split: Split) -> BTreeMap<String, Vec<String>> {
        let mut styles = BTreeMap::<String, Vec<String>>::new();
        for (name, bytes) in files(split) {
            let Some(key) = name.strip_suffix(".json") else {
                continue;
            };
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["caption"], json["captions"][0], "{name}");
            assert!(
                json["captions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|c| !c.as_str().unwrap().is_empty())
            );
            let style = key.split('-').next().unwrap().to_owned();
            styles
                .entry(style)
                .or_default()
                .push(json["class"].as_str().unwrap().to_owned());
        }
        styles
    }

    #[test]
    fn every_sample_is_a_small_image_with_its_text() {
        for split in Split::ALL {
            let files = files(split);
            assert_eq!(files.len(), 2 * split.samples(), "{}", split.name());
            for (name, bytes) in &files {
                let Some(key) = name.strip_suffix(".png") else {
                    continue;
                };
                assert!(files.contains_key(&format!("{key}.json")), "{name}");
                let image = image::load_from_memory(bytes).unwrap().to_rgb8();
                assert_eq!(image.dimensions(), (SIDE as u32, SIDE as u32), "{name}");
                let (dark, light) = image
                    .iter()
                    .fold((255, 0), |(l, h), &v| (v.min(l), v.max(h)));
                assert!(light > dark, "{name} is blank");
            }
        }
    }

    #[test]
    fn every_class_has_one_image_in_each_style() {
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        for (split, styles, names) in [
            (Split::Train, &["emojitwo", "noto"][..], class_names()),
            (Split::Twemoji, &["twemoji"], class_names()),
            (Split::Sketch, &["sketch"], class_names()),
            (Split::Unseen, &["noto", "twemoji"], unseen_class_names()),
        ] {
            let found = classes_by_style(split);
            assert!(found.keys().map(String::as_str).eq(styles.iter().copied()));
            let names = sorted(names);
            for (style, classes) in found {
                assert_eq!(sorted(classes), names, "{style} of {}", split.name());
            }
        }
    }

    #[test]
    fn names_are_unique_to_the_tokenizer_too() {
        let names = [class_names(), unseen_class_names()].concat();
        assert_eq!(class_names().len(), CLASSES);
        assert_eq!(unseen_class_names().len(), UNSEEN_CLASSES);
        let tokenizer = crate::data::tokenizer::Tokenizer::clip();
        let distinct: BTreeSet<Vec<i32>> = names.iter().map(|n| tokenizer.tokens(n)).collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn the_corpus_stays_small() {
        assert!(Split::ALL.iter().map(|s| shards(*s).len()).sum::<usize>() < 4 << 20);
        assert!(templates().iter().all(|t| t.contains("{c}")));
    }
}
