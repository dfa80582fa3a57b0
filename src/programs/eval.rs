//! `eval CHECKPOINT`: zero-shot accuracy and retrieval of a trained model.

use super::help::Screen;
use super::{ModelFlags, Request, check_output, write_json};
use crate::eval::flags::EvalFlags;
use crate::eval::pair_flags::PairFlags;
use crate::eval::picture_flags::PictureFlags;
use crate::eval::{Evaluator, report};
use crate::notices::notice;
use crate::settings::error::{Result, usage};
use clap::{CommandFactory, Parser};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::PathBuf;

/// Evaluates a CLIP model: zero-shot classification, and retrieval under both protocols.
#[derive(Clone, Debug, Parser)]
#[command(name = "eval", version, args_override_self = true)]
pub struct Flags {
    /// The model.
    #[command(flatten)]
    pub model: ModelFlags,
    /// What to evaluate on.
    #[command(flatten)]
    pub sets: EvalFlags,
    /// How pairs are read.
    #[command(flatten)]
    pub pairs: PairFlags,
    /// How pictures are decoded.
    #[command(flatten)]
    pub pictures: PictureFlags,
    /// File of the results.
    ///
    /// Default: results.json beside the weights.
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub out: Option<PathBuf>,
}

/// What an evaluation found.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub table: String,
    /// For programs.
    pub results: Value,
    /// Where the latter belong.
    pub path: PathBuf,
}

impl Report {
    /// Writes results.json.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<()> {
        write_json(&self.path, &self.results)
    }
}

/// All flags of the program.
pub(super) fn command() -> clap::Command {
    Flags::command()
}

const SCREEN: Screen = Screen {
    flags: &[
        "model",
        "val-data",
        "zeroshot-data",
        "classnames",
        "imagenet-val",
        "coco",
        "flickr",
        "backend",
        "precision",
        "batch-size",
        "out",
    ],
    end: "\
The teacher inside the program, on its held-out images:
  eval demo --val-data demo
A run's newest checkpoint:
  eval logs/first --imagenet-val imagenet/val",
};

/// Reads a command line, the program's name first. Flags may have underscores for dashes.
///
/// # Errors
/// [`Error::Usage`](crate::settings::error::Error::Usage) with one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request<Flags>> {
    super::parse(args, &SCREEN)
}

/// Evaluates as `flags` say.
///
/// # Errors
/// If the checkpoint or any data cannot be used, or the device fails.
pub fn evaluate(flags: &Flags) -> Result<Report> {
    flags.model.check()?;
    flags.pairs.check()?;
    if flags.sets.is_empty() {
        return usage(
            "nothing to evaluate on: give --val-data (demo, shards or a CSV file), --zeroshot-data, \
             --imagenet-val, --imagenet-v2, --imagenet-r, --imagenet-sketch, --coco or --flickr",
        );
    }
    if let Some(path) = &flags.out {
        check_output(path)?;
    }
    let sets = flags.sets.open(&flags.pairs, &flags.pictures)?;
    let (backend, trained, loading) = flags.model.open()?;
    let mut evaluator =
        Evaluator::new(trained.model(&backend), loading).saying(|line| notice(line));
    let mut outcomes = Vec::new();
    for set in &sets {
        outcomes.push(evaluator.run(set)?);
    }
    let mut about = Map::new();
    about.insert("model".into(), json!(trained.name));
    let weights = trained.weights.as_ref().map(|p| p.display().to_string());
    about.insert("checkpoint".into(), json!(weights));
    about.insert("parameters".into(), json!(trained.parameters.elements()));
    about.insert("model_cfg".into(), json!(trained.clip.config()));
    about.insert("pictures".into(), json!(flags.pictures));
    about.insert("pairs".into(), json!(flags.pairs));
    let path = flags.out.clone();
    Ok(Report {
        table: report::table(&trained.name, &outcomes),
        results: report::json(about, &outcomes),
        path: path.unwrap_or_else(|| trained.beside("results.json")),
    })
}
