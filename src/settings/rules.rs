//! Rules that no single flag can check.

use super::config::Config;
use super::error::{Result, usage};
use super::values::Augment;
use crate::data::demo::DEMO;
use crate::loss::Objective;

/// Refuses flags that contradict one another, or whose values no run can have.
///
/// # Errors
/// With the first rule that does not hold.
pub(super) fn check(config: &Config, objective: &Objective) -> Result<()> {
    config.pairs.check()?;
    config.eval.check()?;
    config.inherit.check(config.init.is_some())?;
    let Some(data) = &config.train_data else {
        return usage("--train-data is missing: shards, a CSV file, or `demo`");
    };
    for (flag, value) in [
        ("--alpha-clip", config.alpha_clip),
        ("--alpha-crd", config.alpha_crd),
        ("--alpha-fd", config.alpha_fd),
        ("--alpha-icl", config.alpha_icl),
        ("--alpha-cross-kd", config.alpha_cross_kd),
        ("--alpha-mfd", config.alpha_mfd),
        ("--alpha-gd", config.alpha_gd),
        ("--alpha-afd", config.alpha_afd),
        ("--alpha-affinity", config.alpha_affinity),
        ("--alpha-intra", config.alpha_intra),
    ] {
        if value.is_some_and(|a| !a.is_finite() || a < 0.0) {
            return usage(format!("{flag} must be a number of at least 0"));
        }
    }
    if objective.weights.are_zero() {
        return usage("every loss has weight 0: nothing to minimise");
    }
    let unit = |x: f64| (0.0..1.0).contains(&x);
    let rules = [
        (
            config.batch_size >= 2,
            "--batch-size must be at least 2: a pair needs negatives",
        ),
        (config.accum_freq > 0, "--accum-freq must be at least 1"),
        (
            config.mask_ratio.is_none_or(unit),
            "--mask-ratio must be in [0, 1)",
        ),
        (config.epochs > 0, "--epochs must be at least 1"),
        (config.steps != Some(0), "--steps must be at least 1"),
        (
            config.lr.is_finite() && config.lr > 0.0,
            "--lr must be positive",
        ),
        (
            config.wd.is_finite() && config.wd >= 0.0,
            "--wd must be at least 0",
        ),
        (unit(config.beta1), "--beta1 must be in [0, 1)"),
        (unit(config.beta2), "--beta2 must be in [0, 1)"),
        (
            config.eps.is_finite() && config.eps > 0.0,
            "--eps must be positive",
        ),
        (
            config.grad_clip_norm.is_none_or(|x| x > 0.0),
            "--grad-clip-norm must be positive",
        ),
        (
            data != DEMO
                || !config.dataset_resampled && config.train_data_upsampling_factors.is_none(),
            "--dataset-resampled and --train-data-upsampling-factors say nothing about --train-data demo",
        ),
        (config.workers > 0, "--workers must be at least 1"),
        (
            config.device.threads != Some(0),
            "--threads must be at least 1",
        ),
        (config.log_every > 0, "--log-every must be at least 1"),
        (
            config.save_every_steps != Some(0),
            "--save-every-steps must be at least 1",
        ),
        (
            config.eval_every != Some(0),
            "--eval-every must be at least 1",
        ),
        (
            config.aug_scale.len() == 2
                && config.aug_scale[0] > 0.0
                && config.aug_scale[0] <= config.aug_scale[1]
                && config.aug_scale[1]
                    <= if config.augment == Augment::Affine {
                        4.0
                    } else {
                        1.0
                    },
            "--aug-scale must be two numbers, 0 < FROM <= TO <= 1 (4 with --augment affine)",
        ),
        (
            config.eval_every.is_none() || data == DEMO || !config.eval.is_empty(),
            "--eval-every needs something to evaluate on: give --val-data, --imagenet-val, ...",
        ),
        (
            config
                .name
                .as_deref()
                .is_none_or(|n| !n.is_empty() && n != "." && n != ".." && !n.contains(['/', '\\'])),
            "--name must be the name of a folder",
        ),
    ];
    if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
        return usage(*message);
    }
    let distils = objective.weights.need_teacher();
    match (&config.teacher, &config.teacher_checkpoint) {
        (None, _) if distils => usage(
            "this --method learns from a teacher: give --teacher and --teacher-checkpoint \
             (or --method clip)",
        ),
        (Some(t), None) if distils && t != DEMO => usage(format!(
            "--teacher {t} needs its weights: give --teacher-checkpoint"
        )),
        (Some(t), Some(_)) if t == DEMO => {
            usage("--teacher demo brings its own weights: leave --teacher-checkpoint out")
        }
        (None, Some(_)) => usage("--teacher-checkpoint needs --teacher: the model it is of"),
        _ => Ok(()),
    }
}
