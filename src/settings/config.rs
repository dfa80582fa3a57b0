//! The configuration of a run: one struct for flags and file, so that they cannot drift apart.

use super::device::DeviceFlags;
use super::error::{Error, Result};
use super::inherit::InheritFlags;
use super::values::Augment;
use crate::backend::IntraWeights;
use crate::eval::flags::EvalFlags;
use crate::eval::pair_flags::PairFlags;
use crate::eval::picture_flags::PictureFlags;
use crate::loss::{IntraScale, Method, Modality};
use crate::optim::ScheduleKind;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that can be said about a run. Flags and `--config` keys are the same words.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Student: name, JSON file, or `demo`.
    ///
    /// A model name (ViT-T-16, ...), an open_clip model_config JSON file, or `demo` for the demonstration's student.
    #[arg(long, default_value = "ViT-T-16", help_heading = "Models")]
    pub model: String,
    /// Teacher: name, JSON file, or `demo`.
    ///
    /// As --model; `demo` is the teacher inside this program and has its own weights.
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

    /// Losses and their weights.
    ///
    /// Each weight can also be set by its own flag.
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

    /// What the student inherits.
    #[command(flatten)]
    #[serde(flatten)]
    pub inherit: InheritFlags,

    /// Training pairs: shards, a CSV file, or `demo`.
    ///
    /// webdataset shards ('a/{00000..00331}.tar::b/*.tar', a folder of them, 'pipe:COMMAND'), CSV files of image
    /// paths and captions ('a.csv,b.csv'), or `demo` for the emoji inside this program.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_data: Option<String>,
    /// Pairs that an epoch sees, more or less than there are (default: all, counted in the data).
    ///
    /// An epoch goes on where the last one ended: no pair comes twice before all came once.
    #[arg(long, value_name = "N", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_num_samples: Option<u64>,
    /// How often an epoch reads each dataset of --train-data: 1::2.5
    ///
    /// With --train-num-samples or --dataset-resampled only their ratio counts.
    #[arg(long, value_name = "FACTORS", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_data_upsampling_factors: Option<String>,
    /// Draws shards (or rows of tables) with replacement.
    #[arg(long, help_heading = "Data")]
    #[serde(default)]
    pub dataset_resampled: bool,
    /// How pairs are read.
    #[command(flatten)]
    #[serde(flatten)]
    pub pairs: PairFlags,
    /// How pictures are decoded.
    #[command(flatten)]
    #[serde(flatten)]
    pub pictures: PictureFlags,
    /// Augmentation of training images.
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
    /// Share of images to which --aug-color-jitter is applied.
    #[arg(long, default_value_t = 0.8, value_name = "P", help_heading = "Data")]
    pub aug_color_jitter_prob: f64,
    /// Share of images that become grey (open_clip's `gray_scale_prob`).
    #[arg(long, default_value_t = 0.0, value_name = "P", help_heading = "Data")]
    pub aug_gray_scale_prob: f64,
    /// Samples in the shuffle buffer; 0 keeps the order of the data.
    #[arg(long, default_value_t = 5000, value_name = "N", help_heading = "Data")]
    pub shuffle_buffer: usize,
    /// Threads that read and decode.
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "Data")]
    pub workers: usize,

    /// Passes over the data.
    #[arg(long, default_value_t = 32, help_heading = "Optimisation")]
    pub epochs: u32,
    /// Stops after N steps instead of after --epochs; the learning rate's schedule spans them.
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Pairs in a batch.
    #[arg(
        long,
        default_value_t = 1024,
        value_name = "N",
        help_heading = "Optimisation"
    )]
    pub batch_size: usize,
    /// Batches in a step: every loss sees all their pairs, in the memory of one batch.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        help_heading = "Optimisation"
    )]
    pub accum_freq: usize,
    /// Recomputes each block's activations during backward instead of keeping them.
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

    /// The device.
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceFlags,

    /// Folder of all runs.
    #[arg(long, default_value = "logs", value_name = "DIR", help_heading = "Run")]
    pub logs: PathBuf,
    /// Name of this run, a folder in --logs.
    ///
    /// Default: date, model and method.
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
    /// Epochs between two retrieval evaluations, 0 for none; the last epoch has one, too.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "EPOCHS",
        help_heading = "Evaluation"
    )]
    pub val_frequency: u32,
    /// Also evaluates every N steps, and at the end. --train-data demo is evaluated on its held-out splits unless
    /// other evaluation data are given.
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
}

/// Flags that speak about one call of the program rather than about the run.
#[derive(Clone, Debug, Default, Args)]
pub struct Call {
    /// A TOML file with the flags as keys; flags given override it.
    #[arg(long, value_name = "FILE.toml", help_heading = "Command")]
    pub config: Option<PathBuf>,
    /// Continues from a checkpoint.
    ///
    /// A checkpoint folder (step_N), or `latest` for the newest one of the run of --name or --config.
    #[arg(long, value_name = "DIR|latest", help_heading = "Command")]
    pub resume: Option<String>,
    /// Prints parameters, steps and memory, and exits.
    #[arg(long, help_heading = "Command")]
    pub dry_run: bool,
    /// Prints devices and what they support, and exits.
    ///
    /// The devices of every backend, with their memory and precisions, or why there is none.
    #[arg(long, help_heading = "Command")]
    pub list_devices: bool,
    /// Trains every variant in a file with every seed, and writes one table; finished runs are not repeated.
    /// `poster` and `baselines` are inside this program. Other flags apply to all variants.
    #[arg(
        long,
        value_name = "FILE.toml|poster|baselines",
        conflicts_with_all = ["config", "resume", "dry_run", "report"],
        help_heading = "Command"
    )]
    pub ablation: Option<String>,
    /// Writes the report.html of a run's folder again, also of an unfinished run, and exits. Given more than once,
    /// the first run's report shows the others in the same charts.
    #[arg(long, value_name = "DIR", help_heading = "Command")]
    pub report: Vec<PathBuf>,
}

impl Config {
    /// The whole configuration as a file that `--config` reads.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Failed(format!("config.toml: {e}")))
    }
}
