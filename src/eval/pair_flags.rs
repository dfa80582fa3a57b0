//! The flags that say how pairs of images and texts are read, shared by all programs: training and evaluation
//! read them by one rule.

use super::error::{Result, input};
use crate::data::csv::CsvOptions;
use crate::data::{CaptionSource, DatasetOptions, DatasetType, Decoding, IMAGE_KEYS, Pairs, keys};
use clap::Args;
use serde::{Deserialize, Serialize};

/// The share of unusable pairs or shards that is put up with.
pub const MAX_BAD_FRACTION: f64 = 0.01;

/// How pairs of images and texts are read.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PairFlags {
    /// What the data are: shards or tables (default: as their names or first bytes say).
    #[arg(long, value_enum, default_value_t, help_heading = "Data")]
    pub dataset_type: DatasetType,
    /// CSV column of the image's path.
    #[arg(
        long,
        default_value = "filepath",
        value_name = "COLUMN",
        help_heading = "Data"
    )]
    pub csv_img_key: String,
    /// CSV column of the caption.
    #[arg(
        long,
        default_value = "title",
        value_name = "COLUMN",
        help_heading = "Data"
    )]
    pub csv_caption_key: String,
    /// CSV separator: a character, or tab, comma, pipe or semicolon (default: the one that the header has).
    #[arg(long, value_name = "CHARACTER", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv_separator: Option<String>,
    /// Folder that relative paths of a CSV file start from; of several files, one each: a,b.
    #[arg(long, value_name = "DIRS", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_root: Option<String>,
    /// Extensions of the members of a shard that hold the image, the preferred one first.
    #[arg(long, default_value = IMAGE_KEYS, value_name = "KEYS", help_heading = "Data")]
    pub image_key: String,
    /// Extensions of the members of a shard that hold the caption: txt;caption
    ///
    /// Default: the list `captions` of the JSON, else the .txt, else `caption` of the JSON.
    #[arg(long, value_name = "KEYS", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_key: Option<String>,
    /// Keys of the JSON that hold the caption, the preferred one first: long;short
    #[arg(
        long,
        value_name = "KEYS",
        conflicts_with = "text_key",
        help_heading = "Data"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_text_key: Option<String>,
    /// How often each key of --json-text-key is drawn, in proportion; keys of 0 are taken where no other has a text.
    #[arg(long, num_args = 1.., value_name = "P", help_heading = "Data")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub json_text_key_probs: Vec<f64>,
    /// Every line of a text in a shard is a caption of its own, as CLIP_benchmark writes retrieval sets.
    #[arg(long, help_heading = "Data")]
    pub caption_lines: bool,
    /// An error if a larger share of the pairs, or of the shards, is unusable.
    #[arg(long, default_value_t = MAX_BAD_FRACTION, value_name = "SHARE", help_heading = "Data")]
    pub max_bad_fraction: f64,
}

impl Default for PairFlags {
    fn default() -> Self {
        Self {
            dataset_type: DatasetType::default(),
            csv_img_key: "filepath".into(),
            csv_caption_key: "title".into(),
            csv_separator: None,
            data_root: None,
            image_key: IMAGE_KEYS.into(),
            text_key: None,
            json_text_key: None,
            json_text_key_probs: Vec::new(),
            caption_lines: false,
            max_bad_fraction: MAX_BAD_FRACTION,
        }
    }
}

impl PairFlags {
    /// Rules that no single flag can check.
    ///
    /// # Errors
    /// If a separator is no single character, a list of keys is empty, or probabilities do not fit the keys.
    pub fn check(&self) -> Result<()> {
        if let Some(text) = &self.csv_separator
            && separator(text).is_none()
        {
            return input(format!(
                "--csv-separator '{text}' must be one character, or tab, comma, pipe or semicolon"
            ));
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            return input("--max-bad-fraction must be a share, from 0 to 1");
        }
        let lists = [
            ("--image-key", Some(&self.image_key)),
            ("--text-key", self.text_key.as_ref()),
            ("--json-text-key", self.json_text_key.as_ref()),
        ];
        for (flag, list) in lists {
            if list.is_some_and(|l| keys(l).is_empty()) {
                return input(format!("{flag} names no key"));
            }
        }
        // A file can hold what the command line refuses.
        if self.text_key.is_some() && self.json_text_key.is_some() {
            return input("--text-key and --json-text-key name two sources of captions: give one");
        }
        let probabilities = &self.json_text_key_probs;
        let n = self.json_text_key.as_deref().map_or(0, |k| listed(k).len());
        if probabilities.is_empty() {
            return Ok(());
        }
        if probabilities.len() > n {
            return input(format!(
                "--json-text-key-probs has {} numbers for {n} keys of --json-text-key",
                probabilities.len()
            ));
        }
        let fine = probabilities.iter().all(|p| p.is_finite() && *p >= 0.0);
        if !fine || probabilities.iter().sum::<f64>() <= 0.0 {
            return input("--json-text-key-probs must be numbers of at least 0, not all 0");
        }
        Ok(())
    }

    /// How tables are read; each has its own root.
    pub fn csv(&self) -> CsvOptions {
        CsvOptions {
            image_key: self.csv_img_key.clone(),
            caption_key: self.csv_caption_key.clone(),
            separator: self.csv_separator.as_deref().and_then(separator),
            data_root: None,
        }
    }

    /// How samples are read.
    pub fn options(&self, decoding: Decoding) -> DatasetOptions {
        let captions = match (&self.json_text_key, &self.text_key) {
            (Some(json), _) => CaptionSource::Json {
                keys: listed(json),
                weights: self.json_text_key_probs.iter().map(|p| *p as f32).collect(),
            },
            (None, Some(text)) => CaptionSource::Members(keys(text)),
            (None, None) => CaptionSource::Usual,
        };
        DatasetOptions {
            image_keys: keys(&self.image_key),
            captions,
            caption_lines: self.caption_lines,
            decoding,
            ..DatasetOptions::default()
        }
    }

    /// What `names` names; `roots` are the folders of its tables.
    ///
    /// # Errors
    /// As [`Pairs::named`].
    pub fn pairs(&self, names: &str, roots: Option<&str>) -> Result<Pairs, crate::data::Error> {
        Pairs::named(names, self.dataset_type, roots, &self.csv())
    }
}

/// The keys of a JSON, as they are written.
fn listed(text: &str) -> Vec<String> {
    let each = text.split(';').map(str::trim).filter(|k| !k.is_empty());
    each.map(str::to_owned).collect()
}

/// A separator by its character or its name.
fn separator(text: &str) -> Option<char> {
    match text {
        "tab" | "\\t" => Some('\t'),
        "comma" => Some(','),
        "pipe" => Some('|'),
        "semicolon" => Some(';'),
        one => {
            let mut chars = one.chars();
            let first = chars.next()?;
            chars.next().is_none().then_some(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_probabilities_fit_each_other() {
        let of = |json: Option<&str>, probabilities: &[f64]| PairFlags {
            json_text_key: json.map(str::to_owned),
            json_text_key_probs: probabilities.to_vec(),
            ..PairFlags::default()
        };
        assert!(of(Some("a;b"), &[0.5]).check().is_ok());
        for (json, probabilities) in [
            (None, &[1.0][..]),
            (Some("a"), &[1.0, 1.0]),
            (Some("a"), &[-1.0]),
            (Some("a"), &[0.0]),
            (Some("a"), &[f64::NAN]),
            (Some(" ; "), &[]),
        ] {
            assert!(of(json, probabilities).check().is_err(), "{json:?}");
        }
        let both = PairFlags {
            text_key: Some("txt".into()),
            ..of(Some("a"), &[])
        };
        assert!(both.check().is_err());
        let options = of(Some("Long;b"), &[2.0]).options(Decoding::default());
        let want = CaptionSource::Json {
            keys: vec!["Long".into(), "b".into()],
            weights: vec![2.0],
        };
        assert_eq!(options.captions, want);
    }

    #[test]
    fn separators_have_names() {
        for (text, found) in [
            ("tab", Some('\t')),
            ("\\t", Some('\t')),
            ("\t", Some('\t')),
            (",", Some(',')),
            ("pipe", Some('|')),
            ("ab", None),
            ("", None),
        ] {
            assert_eq!(separator(text), found, "{text:?}");
        }
    }
}
