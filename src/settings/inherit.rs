//! The flags of weight inheritance, under TinyCLIP's names too.

use super::error::{Result, usage};
use super::sizes;
use crate::loss::Weights;
use crate::model::inherit::Tower;
use clap::Args;
use serde::{Deserialize, Serialize};

/// How a student inherits weights. Flags and `--config` keys are the same words.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InheritFlags {
    /// Begins with a part of this bigger model's weights: layers at equal intervals, the leading heads and
    /// channels. A run's or checkpoint's folder, a .safetensors file, or `demo`.
    #[arg(long, value_name = "CHECKPOINT", help_heading = "Weight inheritance")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherit_from: Option<String>,
    /// As --inherit-from, for the image tower alone.
    #[arg(
        long,
        alias = "pretrained-image-file",
        value_name = "CHECKPOINT",
        help_heading = "Weight inheritance"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherit_image: Option<String>,
    /// As --inherit-from, for the text tower alone.
    #[arg(
        long,
        alias = "pretrained-text-file",
        value_name = "CHECKPOINT",
        help_heading = "Weight inheritance"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherit_text: Option<String>,
    /// The bigger model: a name or JSON file (default: the open_clip_config.json beside its weights).
    #[arg(long, value_name = "MODEL", help_heading = "Weight inheritance")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherit_model: Option<String>,
    /// Learns which heads, channels and layers of the image tower to keep, and continues with the smaller model.
    #[arg(long, help_heading = "Weight inheritance")]
    pub prune_image: bool,
    /// As --prune-image, for the text tower.
    #[arg(long, help_heading = "Weight inheritance")]
    pub prune_text: bool,
    /// Steps of pruning, which are also the warm-up; the run's other steps train the smaller model.
    #[arg(
        long,
        default_value_t = 3000,
        value_name = "N",
        help_heading = "Weight inheritance"
    )]
    pub prune_step: u64,
    /// Share of the blocks' weights to remove.
    #[arg(
        long,
        default_value_t = 0.25,
        value_name = "SHARE",
        help_heading = "Weight inheritance"
    )]
    pub target_sparsity: f64,
    /// Share to remove at the first step.
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "SHARE",
        help_heading = "Weight inheritance"
    )]
    pub start_sparsity: f64,
    /// Steps from --start-sparsity to --target-sparsity.
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "STEPS",
        help_heading = "Weight inheritance"
    )]
    pub sparsity_warmup: u64,
    /// Counts the share over both towers together instead of in each.
    #[arg(long, help_heading = "Weight inheritance")]
    pub total_loss_flag: bool,
    /// Learning rate of the gates.
    #[arg(
        long,
        default_value_t = 0.02,
        value_name = "RATE",
        help_heading = "Weight inheritance"
    )]
    pub gate_lr: f64,
    /// Learning rate of the sparsity constraint's multipliers; its sign is ignored.
    #[arg(
        long,
        default_value_t = 0.02,
        value_name = "RATE",
        allow_negative_numbers = true,
        help_heading = "Weight inheritance"
    )]
    pub l0lr: f64,
    /// Shrinks the model of --inherit-from step by step: 100,75,50,25 (per cent, or a model's name or JSON
    /// file), each a run of its own that inherits from the last; with --prune-image and --prune-text
    /// automatically.
    #[arg(long, value_name = "SIZES", help_heading = "Weight inheritance")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<String>,
    /// Holds the contrastive scale of student and teacher at this number, as TinyCLIP does (50), instead of
    /// training the student's.
    #[arg(long, value_name = "SCALE", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
    /// Share A of TinyCLIP's loss that is affinity mimicking; the other 1 − A is the contrastive loss. An
    /// --alpha-… flag wins over it.
    #[arg(long, value_name = "A", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation_alpha: Option<f64>,
    /// Weight of both together (default: 1).
    #[arg(long, value_name = "WEIGHT", help_heading = "Losses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation_weight: Option<f64>,
}

impl InheritFlags {
    /// Rules that no single flag can check.
    ///
    /// # Errors
    /// If two flags contradict one another.
    pub(super) fn check(&self, init: bool) -> Result<()> {
        let by_tower = self.inherit_image.is_some() || self.inherit_text.is_some();
        let any = by_tower || self.inherit_from.is_some();
        if by_tower && self.inherit_from.is_some() {
            return usage(
                "--inherit-from is for both towers: leave --inherit-image and --inherit-text out",
            );
        }
        if init && any {
            return usage("--init and --inherit-from both set what the student begins with");
        }
        if self.inherit_model.is_some() && !any {
            return usage("--inherit-model needs --inherit-from: the weights of that model");
        }
        let share = |x: f64| (0.0..1.0).contains(&x);
        let rate = |x: f64| x.is_finite() && x > 0.0;
        let rules = [
            (self.prune_step > 0, "--prune-step must be at least 1"),
            (
                share(self.target_sparsity) && share(self.start_sparsity),
                "--target-sparsity and --start-sparsity must be in [0, 1)",
            ),
            (
                self.start_sparsity <= self.target_sparsity,
                "--start-sparsity must be at most --target-sparsity",
            ),
            (rate(self.gate_lr), "--gate-lr must be positive"),
            (rate(self.l0lr.abs()), "--l0lr must not be 0"),
            (
                self.distillation_alpha
                    .is_none_or(|a| (0.0..=1.0).contains(&a)),
                "--distillation-alpha must be in [0, 1]",
            ),
            (
                self.distillation_weight.is_none_or(rate),
                "--distillation-weight must be positive",
            ),
            (
                self.logit_scale.is_none_or(rate),
                "--logit-scale must be positive",
            ),
            (
                self.stages.is_none() || self.inherit_from.is_some(),
                "--stages needs --inherit-from: the model to begin with",
            ),
        ];
        if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
            return usage(*message);
        }
        match &self.stages {
            Some(stages) => sizes::parse(stages, self.prunes()).map(|_| ()),
            None => Ok(()),
        }
    }

    /// TinyCLIP's two weights, if either is given.
    pub(super) fn weigh(&self, weights: &mut Weights) {
        if self.distillation_alpha.is_none() && self.distillation_weight.is_none() {
            return;
        }
        let share = self.distillation_alpha.unwrap_or(1.0);
        let weight = self.distillation_weight.unwrap_or(1.0);
        weights.affinity = (weight * share) as f32;
        weights.clip = (weight * (1.0 - share)) as f32;
    }

    /// Whether the run has several parts, each a run of its own.
    pub(crate) fn several_parts(&self) -> bool {
        self.stages.is_some() || self.prunes()
    }

    /// Whether gates learn what to keep.
    pub fn prunes(&self) -> bool {
        self.prune_image || self.prune_text
    }

    /// Each checkpoint that is inherited from, and by which towers.
    pub(crate) fn sources(&self) -> Vec<(&str, &'static [Tower])> {
        let both: (_, &[Tower]) = (&self.inherit_from, &Tower::ALL);
        let sources = [
            both,
            (&self.inherit_image, &[Tower::Image]),
            (&self.inherit_text, &[Tower::Text]),
        ];
        let given = sources.into_iter().filter_map(|(path, towers)| {
            let path = path.as_deref()?;
            Some((path, towers))
        });
        given.collect()
    }
}
