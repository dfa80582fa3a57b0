//! The configuration of a run: one struct for flags and file, so that they cannot drift apart.

use super::error::{Error, Result, usage};
use super::values::{Augment, Device, Precision};
use crate::backend::IntraWeights;
use crate::data::demo::DEMO;
use crate::eval::flags::{CsvFlags, EvalFlags};
use crate::loss::{IntraScale, Method, Modality};
use crate::optim::ScheduleKind;
use crate::run::inheritance::InheritFlags;
use crate::run::setup::objective;
use crate::train::feature_cache::FeatureCache;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything that can be said about a run. Flags and `--config` keys are the same words.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Student: a model name (ViT-T-16, ...), an open_clip model_config JSON file, or `demo`.
    #[arg(long, default_value = "ViT-T-16", help_heading = "Models")]
    pub model: String,
    /// Teacher: a model name or JSON file, or `demo` for the one inside this program.
    #[arg(long, aliases = ["t-model", "distillation-teacher"], help_heading = "Models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The teacher's weights.
    #[arg(
        long,
        alias = "t-model-checkpoint",
        value_name = "FILE",
        help_heading = "Models"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_checkpoint: Option<PathBuf>,
    /// Weights that the student starts from.
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// What the student inherits.
    #[command(flatten)]
    #[serde(flatten)]
    pub inherit: InheritFlags,

    /// Preset of loss weights; every weight can be set by hand on top.
    #[arg(long, value_enum, default_value_t, help_heading = "Losses")]
    pub method: Method,
    /// Weight of the contrastive loss.
    #[arg(
        long,
        alias = "alpha-task-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_clip: Option<f64>,
    /// Weight of contrastive relational distillation.
    #[arg(
        long,
        alias = "alpha-ckd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_crd: Option<f64>,
    /// Weight of feature distillation.
    #[arg(
        long,
        alias = "alpha-fd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_fd: Option<f64>,
    /// Weight of interactive contrastive learning.
    #[arg(
        long,
        alias = "alpha-icl-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_icl: Option<f64>,
    /// Weight of the distillation of interactive logits.
    #[arg(
        long,
        alias = "alpha-cross-kd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_cross_kd: Option<f64>,
    /// Weight of masked feature distillation; 2000 weighs it as clip-kd weighs --alpha-fd.
    #[arg(
        long,
        alias = "alpha-mfd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_mfd: Option<f64>,
    /// Share of an image's patches that masked feature distillation leaves out (default: 0.75).
    #[arg(long, value_name = "SHARE", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_ratio: Option<f64>,
    /// Weight of gradient distillation; CLIP-KD takes 1e8.
    #[arg(
        long,
        alias = "alpha-gd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_gd: Option<f64>,
    /// Weight of augmented feature distillation.
    #[arg(
        long,
        alias = "alpha-afd-loss",
        value_name = "WEIGHT",
        help_heading = "Losses"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_afd: Option<f64>,
    /// Weight of TinyCLIP's affinity mimicking.
    #[arg(long, value_name = "WEIGHT", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_affinity: Option<f64>,
    /// Follows CLIP-KD's published code where it differs from its paper: the scales of icl, cross-kd and
    /// afd are used without exp, gd divides by the scale, loss heads decay by 0.01.
    #[arg(long, help_heading = "Losses")]
    pub clip_kd_compat: bool,
    /// Weight of the intra-modal divergence-weighted loss.
    #[arg(long, value_name = "WEIGHT", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_intra: Option<f64>,
    /// How anchors of the intra-modal loss are weighted.
    #[arg(long, value_enum, default_value_t, help_heading = "Losses")]
    pub intra_weights: IntraWeights,
    /// Which intra-modal terms take part.
    #[arg(long, value_enum, default_value_t, help_heading = "Losses")]
    pub intra_modality: Modality,
    /// Scale of the student's intra-modal logits: shared, detached or a number.
    #[arg(long, default_value_t, help_heading = "Losses")]
    pub intra_scale: IntraScale,

    /// Training pairs: webdataset shards ('a/{00000..00331}.tar::b/*.tar'), a CSV file, or `demo`.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_data: Option<String>,
    /// Pairs of an epoch, when the shards' own counts are not to be read.
    #[arg(long, value_name = "N", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_num_samples: Option<u64>,
    /// How often an epoch reads each dataset of --train-data: 1::2.5
    #[arg(long, value_name = "FACTORS", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_data_upsampling_factors: Option<String>,
    /// How CSV files are read.
    #[command(flatten)]
    #[serde(flatten)]
    pub csv: CsvFlags,
    /// What happens to a training image.
    #[arg(long, value_enum, default_value_t, help_heading = "Data")]
    pub augment: Augment,
    /// Range of the crop's area, or of the affine transform's scale.
    #[arg(long, num_args = 2, default_values_t = [0.9, 1.0], value_names = ["FROM", "TO"],
          help_heading = "Data")]
    pub aug_scale: Vec<f64>,
    /// Random changes of brightness, contrast, saturation and hue (open_clip's `color_jitter`).
    #[arg(long, num_args = 4, value_names = ["B", "C", "S", "H"], help_heading = "Data")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aug_color_jitter: Vec<f64>,
    /// Share of images whose colours change so.
    #[arg(long, default_value_t = 0.8, value_name = "P", help_heading = "Data")]
    pub aug_color_jitter_prob: f64,
    /// Share of images that become grey (open_clip's `gray_scale_prob`).
    #[arg(long, default_value_t = 0.0, value_name = "P", help_heading = "Data")]
    pub aug_gray_scale_prob: f64,
    /// Samples among which the shuffle buffer draws; 0 keeps the data's order.
    #[arg(long, default_value_t = 5000, value_name = "N", help_heading = "Data")]
    pub shuffle_buffer: usize,
    /// Threads that read and decode.
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "Data")]
    pub workers: usize,

    /// Passes over the data.
    #[arg(long, default_value_t = 32, help_heading = "Optimisation")]
    pub epochs: u32,
    /// Stops after N steps instead of --epochs; the schedule spans them.
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Pairs in a step.
    #[arg(
        long,
        default_value_t = 1024,
        value_name = "N",
        help_heading = "Optimisation"
    )]
    pub batch_size: usize,
    /// Batches that make a step together: every loss sees all of them, at the memory of one. A step
    /// then has --batch-size times this many pairs.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        help_heading = "Optimisation"
    )]
    pub accum_freq: usize,
    /// Computes each block's activations again on the way back instead of keeping them.
    #[arg(long, help_heading = "Optimisation")]
    pub grad_checkpointing: bool,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3, help_heading = "Optimisation")]
    pub lr: f64,
    /// Weight decay of matrices.
    #[arg(long, default_value_t = 0.1, help_heading = "Optimisation")]
    pub wd: f64,
    /// AdamW's decay of the first moment.
    #[arg(long, default_value_t = 0.9, help_heading = "Optimisation")]
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    #[arg(long, default_value_t = 0.98, help_heading = "Optimisation")]
    pub beta2: f64,
    /// AdamW's epsilon.
    #[arg(long, default_value_t = 1e-6, help_heading = "Optimisation")]
    pub eps: f64,
    /// Steps of linear warm-up.
    #[arg(
        long,
        default_value_t = 10_000,
        value_name = "STEPS",
        help_heading = "Optimisation"
    )]
    pub warmup: u64,
    /// Learning rate after the warm-up.
    #[arg(long, value_enum, default_value_t, help_heading = "Optimisation")]
    pub lr_scheduler: ScheduleKind,
    /// Clips the gradient to this norm.
    #[arg(
        long,
        alias = "norm-gradient-clip",
        value_name = "NORM",
        help_heading = "Optimisation"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_clip_norm: Option<f64>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0, help_heading = "Optimisation",
          value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    pub seed: u64,

    /// Device.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub backend: Device,
    /// Which of several GPUs, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Device")]
    pub device: usize,
    /// Precision of matrix products.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub precision: Precision,
    /// Threads of the CPU backend (default: one a core).
    #[arg(long, value_name = "N", help_heading = "Device")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,

    /// Folder of all runs.
    #[arg(long, default_value = "logs", value_name = "DIR", help_heading = "Run")]
    pub logs: PathBuf,
    /// Name of this run, a folder in --logs (default: date, model and method).
    #[arg(long, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Steps between two lines of metrics.jsonl.
    #[arg(
        long,
        alias = "log-every-n-steps",
        default_value_t = 100,
        value_name = "STEPS",
        help_heading = "Run"
    )]
    pub log_every: u64,
    /// Epochs between two checkpoints, 0 for only the last (default: 1, and 0 with --steps).
    #[arg(long, value_name = "EPOCHS", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_frequency: Option<u32>,
    /// Also a checkpoint every N steps.
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every_steps: Option<u64>,
    /// What to evaluate on while training.
    #[command(flatten)]
    #[serde(flatten)]
    pub eval: EvalFlags,
    /// Epochs between two zero-shot evaluations, 0 for none; the last epoch has one, too.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "EPOCHS",
        help_heading = "Evaluation"
    )]
    pub zeroshot_frequency: u32,
    /// The same for retrieval.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "EPOCHS",
        help_heading = "Evaluation"
    )]
    pub val_frequency: u32,
    /// Also evaluates every N steps, and at the end. Without evaluation data of its own, --train-data
    /// demo has its held-out splits.
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
}

/// Flags that speak about one call of the program rather than about the run.
#[derive(Clone, Debug, Default, Args)]
pub struct Call {
    /// A file of the same keys as the flags; a flag wins over it.
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Goes on from a checkpoint folder, or from the newest one of this run.
    #[arg(long, value_name = "DIR|latest", help_heading = "Run")]
    pub resume: Option<String>,
    /// Prints parameters, steps and memory needed, and exits.
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// Runs every row of a file with every seed and writes one table; what is done is not done again.
    /// `poster` and `baselines` are inside this program. Flags beside it hold for all rows.
    #[arg(
        long,
        value_name = "FILE.toml|poster|baselines",
        conflicts_with_all = ["config", "resume", "dry_run", "report"],
        help_heading = "Run"
    )]
    pub ablation: Option<String>,
    /// Writes the report.html of a run's folder again, also of a run that broke off, and exits. Given more
    /// than once, the first run's report shows the others in the same charts.
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub report: Vec<PathBuf>,
    /// Where features of the teacher wait that other runs of this program asked for.
    #[arg(skip)]
    pub teacher_features: Option<Arc<FeatureCache>>,
}

impl Config {
    /// The whole configuration as a file that `--config` reads.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Failed(format!("config.toml: {e}")))
    }

    /// Whether the student learns from a teacher.
    pub fn distils(&self) -> bool {
        objective(self).weights.need_teacher()
    }

    /// The run's name, given or made from date, model and method.
    pub fn run_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let model = Path::new(&self.model)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            let method = String::from(match self.method {
                Method::Clip => "clip",
                Method::ClipKd => "clip-kd",
                Method::TinyClip => "tinyclip",
                Method::IntraKd => "intra-kd",
            });
            format!("{}-{model}-{method}", crate::run::log::timestamp())
        })
    }

    /// Rules that no single flag can check.
    pub(crate) fn check(&self) -> Result<()> {
        self.csv.check()?;
        self.eval.check()?;
        self.inherit.check(self.init.is_some())?;
        let Some(data) = &self.train_data else {
            return usage("--train-data is missing: shards, a CSV file, or `demo`");
        };
        for (flag, value) in [
            ("--alpha-clip", self.alpha_clip),
            ("--alpha-crd", self.alpha_crd),
            ("--alpha-fd", self.alpha_fd),
            ("--alpha-icl", self.alpha_icl),
            ("--alpha-cross-kd", self.alpha_cross_kd),
            ("--alpha-mfd", self.alpha_mfd),
            ("--alpha-gd", self.alpha_gd),
            ("--alpha-afd", self.alpha_afd),
            ("--alpha-affinity", self.alpha_affinity),
            ("--alpha-intra", self.alpha_intra),
        ] {
            if value.is_some_and(|a| !a.is_finite() || a < 0.0) {
                return usage(format!("{flag} must be a number of at least 0"));
            }
        }
        if objective(self).weights.are_zero() {
            return usage("every loss has weight 0: nothing to minimise");
        }
        let unit = |x: f64| (0.0..1.0).contains(&x);
        let rules = [
            (
                self.batch_size >= 2,
                "--batch-size must be at least 2: a pair needs negatives",
            ),
            (self.accum_freq > 0, "--accum-freq must be at least 1"),
            (
                self.mask_ratio.is_none_or(unit),
                "--mask-ratio must be in [0, 1)",
            ),
            (self.epochs > 0, "--epochs must be at least 1"),
            (self.steps != Some(0), "--steps must be at least 1"),
            (
                self.lr.is_finite() && self.lr > 0.0,
                "--lr must be positive",
            ),
            (
                self.wd.is_finite() && self.wd >= 0.0,
                "--wd must be at least 0",
            ),
            (unit(self.beta1), "--beta1 must be in [0, 1)"),
            (unit(self.beta2), "--beta2 must be in [0, 1)"),
            (
                self.eps.is_finite() && self.eps > 0.0,
                "--eps must be positive",
            ),
            (
                self.grad_clip_norm.is_none_or(|x| x > 0.0),
                "--grad-clip-norm must be positive",
            ),
            (self.workers > 0, "--workers must be at least 1"),
            (self.threads != Some(0), "--threads must be at least 1"),
            (self.log_every > 0, "--log-every must be at least 1"),
            (
                self.save_every_steps != Some(0),
                "--save-every-steps must be at least 1",
            ),
            (
                self.eval_every != Some(0),
                "--eval-every must be at least 1",
            ),
            (
                self.aug_scale.len() == 2
                    && self.aug_scale[0] > 0.0
                    && self.aug_scale[0] <= self.aug_scale[1]
                    && self.aug_scale[1]
                        <= if self.augment == Augment::Affine {
                            4.0
                        } else {
                            1.0
                        },
                "--aug-scale must be two numbers, 0 < FROM <= TO <= 1 (4 with --augment affine)",
            ),
            (
                self.eval_every.is_none() || data == DEMO || !self.eval.is_empty(),
                "--eval-every needs something to evaluate on: say --val-data, --imagenet-val, ...",
            ),
            (
                self.name.as_deref().is_none_or(|n| {
                    !n.is_empty() && n != "." && n != ".." && !n.contains(['/', '\\'])
                }),
                "--name must be the name of a folder",
            ),
        ];
        if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
            return usage(*message);
        }
        match (&self.teacher, &self.teacher_checkpoint) {
            (None, _) if self.distils() => usage(
                "this --method learns from a teacher: say --teacher and --teacher-checkpoint \
                 (or --method clip)",
            ),
            (Some(t), None) if self.distils() && t != DEMO => usage(format!(
                "--teacher {t} needs its weights: say --teacher-checkpoint"
            )),
            (Some(t), Some(_)) if t == DEMO => {
                usage("--teacher demo brings its own weights: leave --teacher-checkpoint out")
            }
            (None, Some(_)) => usage("--teacher-checkpoint needs --teacher: the model it is of"),
            _ => Ok(()),
        }
    }
}
