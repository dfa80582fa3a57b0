//! The flags that name evaluation data, shared by `eval` and `train`.

use super::error::{Result, input};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to evaluate on. Flags and `--config` keys are the same words.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EvalFlags {
    /// Retrieval: shards, a CSV file, or `demo`.
    ///
    /// webdataset shards, CSV files (both as --train-data), or `demo` for the demonstration's held-out splits. All
    /// captions of an image take part.
    #[arg(long, value_name = "DATA", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_data: Option<String>,
    /// As --data-root, for --val-data (default: --data-root, if it is one folder).
    #[arg(long, value_name = "DIRS", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_data_root: Option<String>,
    /// Zero-shot classification: shards with classes.
    ///
    /// webdataset shards whose samples have a .cls file, or `class` in the JSON.
    #[arg(long, value_name = "SHARDS", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zeroshot_data: Option<String>,
    /// Class names of --zeroshot-data, one per line in the order of their indices.
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classnames: Option<PathBuf>,
    /// Prompts of --zeroshot-data, one per line, {c} for the name (default: `a photo of a {c}.`).
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
    /// ImageNet's validation images.
    ///
    /// One folder per class, named by WordNet id.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imagenet_val: Option<PathBuf>,
    /// ImageNet-V2: one folder per class, named by class index.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imagenet_v2: Option<PathBuf>,
    /// ImageNet-R: one folder per class, named by WordNet id.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imagenet_r: Option<PathBuf>,
    /// ImageNet-Sketch: one folder per class, named by WordNet id.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imagenet_sketch: Option<PathBuf>,
    /// MSCOCO's images.
    ///
    /// The folder val2014, or the one that holds it.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coco: Option<PathBuf>,
    /// Karpathy's splits of MSCOCO (default: dataset_coco.json in --coco).
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coco_captions: Option<PathBuf>,
    /// Flickr30k's images.
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flickr: Option<PathBuf>,
    /// Karpathy's splits of Flickr30k (default: dataset_flickr30k.json in --flickr).
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flickr_captions: Option<PathBuf>,
}

impl EvalFlags {
    /// Whether no flag names any data.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The words of all its flags.
    pub fn keys() -> Vec<String> {
        Self::augment_args(clap::Command::new(""))
            .get_arguments()
            .filter_map(|a| a.get_long().map(str::to_owned))
            .collect()
    }

    /// Rules that no single flag can check.
    ///
    /// # Errors
    /// If a flag is given without the one that it belongs to.
    pub fn check(&self) -> Result<()> {
        if self.zeroshot_data.is_some() && self.classnames.is_none() {
            return input("--zeroshot-data needs --classnames: a file of class names, one a line");
        }
        let belongs = [
            ("--classnames", self.classnames.is_some(), "--zeroshot-data"),
            ("--templates", self.templates.is_some(), "--zeroshot-data"),
            (
                "--val-data-root",
                self.val_data_root.is_some(),
                "--val-data",
            ),
            ("--coco-captions", self.coco_captions.is_some(), "--coco"),
            (
                "--flickr-captions",
                self.flickr_captions.is_some(),
                "--flickr",
            ),
        ];
        for (flag, given, to) in belongs {
            let there = match to {
                "--zeroshot-data" => self.zeroshot_data.is_some(),
                "--val-data" => self.val_data.is_some(),
                "--coco" => self.coco.is_some(),
                _ => self.flickr.is_some(),
            };
            if given && !there {
                return input(format!("{flag} needs {to}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_belong_together() {
        let check = |f: EvalFlags| f.check().map_err(|e| e.to_string());
        assert!(EvalFlags::default().is_empty());
        let names = || Some(PathBuf::from("names.txt"));
        let data = || Some("x.tar".to_string());
        let alone = EvalFlags {
            zeroshot_data: data(),
            ..EvalFlags::default()
        };
        assert!(!alone.is_empty());
        assert!(check(alone.clone()).unwrap_err().contains("--classnames"));
        let both = EvalFlags {
            classnames: names(),
            ..alone
        };
        assert!(check(both).is_ok());
        let lost = EvalFlags {
            templates: names(),
            coco: names(),
            ..EvalFlags::default()
        };
        assert!(check(lost).unwrap_err().contains("--templates"));
        let flickr = EvalFlags {
            flickr_captions: names(),
            ..EvalFlags::default()
        };
        assert!(check(flickr).unwrap_err().contains("--flickr"));
    }
}
