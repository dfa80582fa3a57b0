//! `--dry-run`: what a run would need, without doing it.

use super::config::Config;
use super::error::Result;
use super::setup;
use super::source::{DEMO, Source};
use crate::model::{Clip, ClipConfig, ConvLayer, VisionConfig, convolutions};

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

/// A convolution with its BatchNorm: backward reads the input of each and, where a ReLU follows, its
/// output, which is the next one's input.
fn convolution(layer: &ConvLayer) -> Cost {
    let outputs = (layer.side * layer.side * layer.channels.1) as f64;
    Cost {
        flops: 2.0 * outputs * layer.filter() as f64,
        kept: 2.0 * outputs,
    }
}

fn vision(v: &VisionConfig, embed_dim: usize) -> Cost {
    let tokens = 1 + v.grid() * v.grid();
    if v.is_resnet() {
        let costs = convolutions(v).into_iter().map(|c| convolution(&c));
        let convs = costs.fold(Cost::default(), |sum, c| Cost {
            flops: sum.flops + c.flops,
            kept: sum.kept + c.kept,
        });
        let (t, w) = (tokens as f64, v.token_width() as f64);
        // k and v of all tokens, q and the output of one, and that one's attention.
        return Cost {
            flops: convs.flops + 2.0 * w * (2.0 * t * w + w + embed_dim as f64 + 2.0 * t),
            kept: convs.kept + 3.0 * t * w,
        };
    }
    let pixels = (v.cell() * v.cell() * 3 * (tokens - 1)) as f64;
    let tower = tower(tokens, v.width, v.layers.blocks(), v.mlp_width());
    Cost {
        flops: tower.flops + 2.0 * pixels * v.width as f64,
        kept: tower.kept + 2.0 * pixels,
    }
}

fn cost(config: &ClipConfig) -> Cost {
    let t = &config.text_cfg;
    let image = vision(&config.vision_cfg, config.embed_dim);
    let text = tower(
        CAPTION_TOKENS.min(t.context_length),
        t.width,
        t.layers,
        t.mlp_width(),
    );
    Cost {
        flops: image.flops + text.flops,
        kept: image.kept + text.kept,
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
