//! From flags to test sets, ready to be read.

use super::classes::{ClassSet, Classes};
use super::error::{Result, input};
use super::flags::EvalFlags;
use super::imagenet::{self, TestSet};
use super::pair_flags::{MAX_BAD_FRACTION, PairFlags};
use super::picture_flags::PictureFlags;
use super::{folders, karpathy};
use crate::data::csv::{self, CsvOptions};
use crate::data::demo::{self as corpus, DEMO, Split};
use crate::data::sample::Sample;
use crate::data::{Dataset, DatasetOptions, Decoding, Pairs, ShardSource, Skips, Speed};
use std::collections::HashMap;
use std::sync::Arc;

/// Under which protocols images and captions are to find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// None: no retrieval.
    None,
    /// First-caption alone, which spares the other captions' features.
    First,
    /// First-caption and all-captions.
    Both,
}

/// Images and what to ask a model about them.
#[derive(Clone, Debug)]
pub struct EvalSet {
    /// Its name on the screen.
    pub name: String,
    /// Before the names of its metrics; empty for the data of `--val-data` and `--zeroshot-data`, whose
    /// metrics have open_clip's bare names.
    pub prefix: String,
    /// The images.
    pub dataset: Arc<Dataset>,
    /// Candidates, if the images are to be classified.
    pub classes: Option<Classes>,
    /// Retrieval between the images and their captions.
    pub retrieval: Protocols,
    /// The share of unusable pairs or shards above which there is no result.
    pub max_bad_fraction: f64,
}

impl EvalFlags {
    /// Opens everything that the flags name. Images are not looked at yet.
    ///
    /// # Errors
    /// If anything is missing or malformed.
    pub fn open(&self, how: &PairFlags, pictures: &PictureFlags) -> Result<Vec<EvalSet>> {
        let decoding = pictures.decoding(Speed::Exact);
        let max_bad_fraction = how.max_bad_fraction;
        self.check()?;
        how.check()?;
        let mut sets = Vec::new();
        let imagenet = [
            (&self.imagenet_val, TestSet::Val),
            (&self.imagenet_v2, TestSet::V2),
            (&self.imagenet_r, TestSet::R),
            (&self.imagenet_sketch, TestSet::Sketch),
        ];
        let named = imagenet.iter().filter_map(|(d, t)| Some((d.as_ref()?, *t)));
        let class_set = imagenet::class_set()?;
        for (folder, test) in named {
            let samples = folders::by_class(folder, &test.candidate_of_folder(), test.folders())?;
            sets.push(EvalSet {
                name: test.name().into(),
                prefix: test.name().into(),
                dataset: table(samples, Skips::default(), decoding),
                classes: Some(test.classes(class_set.clone())),
                retrieval: Protocols::None,
                max_bad_fraction,
            });
        }
        if let (Some(shards), Some(names)) = (&self.zeroshot_data, &self.classnames) {
            let set = ClassSet::from_files(names, self.templates.as_deref())?;
            let options = DatasetOptions {
                require_caption: false,
                ..how.options(decoding)
            };
            sets.push(EvalSet {
                name: "zeroshot-data".into(),
                prefix: String::new(),
                dataset: Arc::new(Dataset::from_patterns(shards, options)?),
                classes: Some(Classes::by_name_or_index(Arc::new(set))),
                retrieval: Protocols::None,
                max_bad_fraction,
            });
        }
        let karpathy = [
            ("coco", &self.coco, &self.coco_captions),
            ("flickr", &self.flickr, &self.flickr_captions),
        ];
        for (name, images, captions) in karpathy {
            let Some(images) = images else { continue };
            let usual = images.join(match name {
                "coco" => "dataset_coco.json",
                _ => "dataset_flickr30k.json",
            });
            let (samples, skips) =
                karpathy::test_split(captions.as_ref().unwrap_or(&usual), images)?;
            sets.push(EvalSet {
                name: name.into(),
                prefix: name.into(),
                dataset: table(samples, skips, decoding),
                classes: None,
                retrieval: Protocols::Both,
                max_bad_fraction,
            });
        }
        match self.val_data.as_deref() {
            None => {}
            Some(DEMO) => sets.extend(demo_sets(Protocols::Both)?),
            Some(data) => sets.push(EvalSet {
                name: "val-data".into(),
                prefix: String::new(),
                dataset: Arc::new(self.pairs(data, how, decoding)?),
                classes: None,
                retrieval: Protocols::Both,
                max_bad_fraction,
            }),
        }
        Ok(sets)
    }

    /// Shards or tables of images with captions.
    fn pairs(&self, data: &str, how: &PairFlags, decoding: Decoding) -> Result<Dataset> {
        let roots = self.val_data_root.as_deref();
        // Several folders are those of the training tables.
        let usual = how.data_root.as_deref().filter(|r| !r.contains([',', ':']));
        let options = how.options(decoding);
        match how.pairs(data, roots.or(usual))? {
            Pairs::Tables(files) => {
                let (mut rows, mut skips) = (Vec::new(), Skips::default());
                for (path, data_root) in files {
                    let csv = CsvOptions {
                        data_root,
                        ..how.csv()
                    };
                    let (more, skipped) = csv::read(&path, &csv)?;
                    rows.extend(more);
                    skips.merge(&skipped);
                }
                if rows.is_empty() {
                    return input(format!("{data}: no usable row; skipped: {skips}"));
                }
                Ok(Dataset::from_samples(by_image(rows), skips, options))
            }
            shards => Ok(shards.open(&how.csv(), None, options)?),
        }
    }
}

fn table(samples: Vec<Sample>, skips: Skips, decoding: Decoding) -> Arc<Dataset> {
    let options = DatasetOptions {
        decoding,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::from_samples(samples, skips, options))
}

/// Rows of the same image become one sample with all their captions.
fn by_image(rows: Vec<Sample>) -> Vec<Sample> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut samples: Vec<Sample> = Vec::new();
    for row in rows {
        match places.get(&row.key) {
            Some(&i) => samples[i].captions.extend(row.captions),
            None => {
                places.insert(row.key.clone(), samples.len());
                samples.push(row);
            }
        }
    }
    samples
}

/// The demonstration's held-out splits, each classified among its own concepts, with retrieval under
/// the protocols of `retrieval`.
///
/// # Errors
/// Never for the corpus as it is.
pub fn demo_sets(retrieval: Protocols) -> Result<Vec<EvalSet>> {
    let templates: Vec<String> = corpus::templates()
        .iter()
        .map(ToString::to_string)
        .collect();
    let set = |names| ClassSet::new(names, templates.clone()).map(Arc::new);
    let (seen, unseen) = (
        set(corpus::class_names())?,
        set(corpus::unseen_class_names())?,
    );
    let splits = [
        ("demo-twemoji", Split::Twemoji, &seen),
        ("demo-sketch", Split::Sketch, &seen),
        ("demo-unseen", Split::Unseen, &unseen),
    ];
    splits
        .into_iter()
        .map(|(name, split, classes)| {
            let shard = ShardSource::Memory {
                name: format!("{}.tar.gz", split.name()),
                bytes: corpus::shards(split),
            };
            let options = DatasetOptions {
                cache: true,
                ..DatasetOptions::default()
            };
            Ok(EvalSet {
                name: name.into(),
                prefix: name.into(),
                dataset: Arc::new(Dataset::from_shards(vec![shard], options)?),
                classes: Some(Classes::by_name_or_index(classes.clone())),
                retrieval,
                max_bad_fraction: MAX_BAD_FRACTION,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::ImageBytes;

    #[test]
    fn rows_of_one_image_are_joined() {
        let row = |key: &str, caption: &str| {
            let image = ImageBytes::File(key.into());
            Sample::new(key.into(), image, vec![caption.into()], None)
        };
        let joined = by_image(vec![row("b", "1"), row("a", "2"), row("b", "3")]);
        let seen: Vec<_> = joined
            .iter()
            .map(|s| (s.key.as_str(), s.captions.join("|")))
            .collect();
        assert_eq!(seen, [("b", "1|3".to_string()), ("a", "2".to_string())]);
    }

    #[test]
    fn the_splits_share_their_classes() {
        let sets = demo_sets(Protocols::Both).unwrap();
        let of = |i: usize| &sets[i].classes.as_ref().unwrap().set;
        assert!(Arc::ptr_eq(of(0), of(1)));
        assert_eq!((of(0).names().len(), of(2).names().len()), (944, 127));
    }
}
