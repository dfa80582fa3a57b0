//! `--dry-run`: what a run would need, without doing it.

use super::config::Config;
use super::error::Result;
use super::setup;
use super::source::{DEMO, Source};
use crate::model::{Clip, ClipConfig};

/// Tokens of a packed caption, on average: web captions have 10 to 25.
const CAPTION_TOKENS: usize = 20;

/// Floating-point operations and kept activations of one pair's forward pass.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    flops: f64,
    /// f32 values that backward reads.
    kept: f64,
}

/// One tower: `tokens` of `width` through `layers`, with an MLP of `mlp`.
fn tower(tokens: usize, width: usize, layers: usize, mlp: usize) -> Cost {
    let (t, w, l, m) = (tokens as f64, width as f64, layers as f64, mlp as f64);
    // in_proj 3w², out_proj w², two MLP products wm each, and the two products of attention.
    let flops = l * t * (2.0 * (4.0 * w * w + 2.0 * w * m) + 4.0 * t * w);
    // Two inputs of LayerNorm and their outputs, q, k, v, attention's output, and the MLP's hidden
    // values before and after its activation.
    let kept = l * t * (8.0 * w + 2.0 * m);
    Cost { flops, kept }
}

fn cost(config: &ClipConfig) -> Cost {
    let (v, t) = (&config.vision_cfg, &config.text_cfg);
    let patches = v.grid() * v.grid();
    let image = tower(1 + patches, v.width, v.layers, v.mlp_width());
    let text = tower(
        CAPTION_TOKENS.min(t.context_length),
        t.width,
        t.layers,
        t.mlp_width(),
    );
    let pixels = (v.patch_size * v.patch_size * 3 * patches) as f64;
    Cost {
        flops: image.flops + text.flops + 2.0 * pixels * v.width as f64,
        kept: image.kept + text.kept + 2.0 * pixels,
    }
}

fn elements(clip: &Clip) -> usize {
    clip.parameter_shapes()
        .iter()
        .map(|(_, s)| s.iter().product::<usize>())
        .sum()
}

/// What the run of `config` would need, as text for people.
///
/// # Errors
/// If a model or the data cannot be opened.
pub fn dry_run(config: &Config) -> Result<String> {
    config.eval.open(&config.csv)?;
    let student = setup::student(config)?;
    let teacher = match config.teacher.as_deref().filter(|_| config.distils()) {
        Some(DEMO) => Some(super::demo::teacher_config()?),
        Some(name) => Some(ClipConfig::load(name).map_err(super::error::input)?),
        None => None,
    };
    let known = config.steps.is_some() || config.train_num_samples.is_some();
    let source = Source::open(config, student.config(), !known)?;
    let n = elements(&student);
    let mut lines = vec![format!(
        "student  {}: {} parameters",
        config.model,
        millions(n)
    )];
    let own = cost(student.config());
    let mut flops = 3.0 * own.flops;
    let mut bytes = 16.0 * n as f64;
    if let Some(t) = teacher {
        let clip = Clip::new(t);
        let m = elements(&clip);
        let name = config.teacher.as_deref().unwrap_or_default();
        lines.push(format!("teacher  {name}: {} parameters", millions(m)));
        let c = cost(clip.config());
        flops += c.flops;
        bytes += 4.0 * m as f64;
    }
    let batch = config.batch_size as f64;
    let per_pair = 4.0 * own.kept;
    match (config.steps, source.per_epoch()) {
        (Some(steps), _) => lines.push(format!("steps    {steps} of {} pairs", config.batch_size)),
        (None, Some(e)) => lines.push(format!(
            "steps    {} of {} pairs ({e} in each of {} epochs)",
            e * u64::from(config.epochs),
            config.batch_size,
            config.epochs
        )),
        (None, None) => {}
    }
    lines.push(format!(
        "a step   {:.3} TFLOP (captions of {CAPTION_TOKENS} tokens assumed)",
        flops * batch / 1e12
    ));
    lines.push(format!(
        "memory   about {}: {} for weights, gradients and moments, {} for the activations of a batch",
        size(bytes + batch * per_pair),
        size(bytes),
        size(batch * per_pair)
    ));
    Ok(lines.join("\n"))
}

fn millions(n: usize) -> String {
    format!("{:.2} M", n as f64 / 1e6)
}

fn size(bytes: f64) -> String {
    if bytes >= 1e9 {
        format!("{:.1} GB", bytes / 1e9)
    } else {
        format!("{:.0} MB", bytes / 1e6)
    }
}
