//! `--dry-run`: what a run would need, without doing it.

use super::cost::{self, CAPTION_TOKENS};
use super::models::student;
use super::source::Source;
use super::{device, embedded};
use crate::backend::gigabytes;
use crate::data::demo::DEMO;
use crate::model::{Clip, ClipConfig};
use crate::settings::error::{Result, input};
use crate::settings::meaning::Settings;
use crate::train::heads::LossHeads;
use crate::train::masking::Masking;

/// Batches that the loader holds beside the one in use: two made ahead, one in the making.
const AHEAD: f64 = 3.0;

/// Parameters of the image tower, of the text tower with the scale, and of both.
fn parameters(clip: &Clip) -> [usize; 3] {
    let count = |image: bool| {
        let shapes = clip.parameter_shapes();
        let of_tower = shapes
            .iter()
            .filter(|(n, _)| n.starts_with("visual.") == image);
        of_tower.map(|(_, s)| s.iter().product::<usize>()).sum()
    };
    let (image, text) = (count(true), count(false));
    [image, text, image + text]
}

/// What the run of `settings` would need, as text for people.
///
/// # Errors
/// If a model or the data cannot be opened.
pub fn dry_run(settings: &Settings) -> Result<String> {
    let config = &settings.config;
    config.eval.open(&config.pairs, &config.pictures)?;
    let student = student(settings)?;
    let teacher = match config.teacher.as_deref().filter(|_| settings.distils()) {
        Some(DEMO) => Some(embedded::teacher_config()?),
        Some(name) => Some(ClipConfig::load(name).map_err(input)?),
        None => None,
    };
    let known = config.steps.is_some() || config.train_num_samples.is_some();
    let source = Source::open(&settings.data, student.config(), !known)?;
    let objective = settings.objective;
    let weights = objective.weights;
    let own = student.config();
    let part = config.batch_size as f64;
    let device = device::open(&settings.device);
    let frozen = device.map_or(f64::MAX, |(backend, _)| backend.frozen_batch() as f64);
    let pairs = part * config.accum_freq as f64;

    let mut lines = Vec::new();
    let count = |who: &str, name: &str, [image, text, all]: [usize; 3]| {
        format!(
            "{who}  {name}: {} parameters (vision {}, text {})",
            millions(all),
            millions(image),
            millions(text)
        )
    };
    let n = parameters(&student);
    lines.push(count("student", &config.model, n));
    let mut heads = 0;
    let (image, text) = (
        cost::vision(&own.vision_cfg, own.embed_dim),
        cost::text(own, CAPTION_TOKENS),
    );
    let masked = Masking::of(&objective, own)?
        .map(|masking| cost::masked_vision(&own.vision_cfg, masking.kept()));
    let again = if config.grad_checkpointing { 1.0 } else { 0.0 };
    // In parts every part goes forward twice; recomputed blocks once more.
    let passes = 2.0 + again + if config.accum_freq > 1 { 2.0 } else { 1.0 };
    let (mut teacher_bytes, mut teacher_passing) = (0.0, 0.0);
    if let Some(config_of_teacher) = &teacher {
        let clip = Clip::new(config_of_teacher.clone());
        let c = clip.config();
        let m = parameters(&clip);
        let name = config.teacher.as_deref().unwrap_or_default();
        lines.push(count("teacher", name, m));
        heads = LossHeads::new(&objective, own.embed_dim, c.embed_dim).elements();
        let image = cost::vision(&c.vision_cfg, c.embed_dim);
        let text = cost::text(c, CAPTION_TOKENS);
        teacher_bytes = 4.0 * m[2] as f64;
        teacher_passing = (image.passing * part.min(frozen)).max(text.passing * part);
    }
    if heads > 0 {
        lines.push(format!("heads    {heads} parameters"));
    }
    let mut flops = cost::step(
        own,
        teacher.as_ref(),
        &weights,
        pairs,
        passes,
        CAPTION_TOKENS,
    );
    if let Some(masked) = &masked {
        let before = flops.len() - 1;
        flops.insert(
            before,
            ("student masked image", pairs * masked.flops * passes),
        );
    }

    match (config.steps, source.per_epoch()) {
        (Some(steps), _) => lines.push(format!("steps    {steps} of {pairs} pairs")),
        (None, Some(e)) => {
            let e = e / config.accum_freq as u64;
            lines.push(format!(
                "steps    {} of {pairs} pairs ({e} in each of {} epochs)",
                e * u64::from(config.epochs),
                config.epochs
            ));
        }
        (None, None) => {}
    }
    let total: f64 = flops.iter().map(|(_, f)| f).sum();
    lines.push(format!(
        "a step   {:.3} TFLOP (captions of {CAPTION_TOKENS} tokens assumed): {}",
        total / 1e12,
        flops
            .iter()
            .map(|(name, f)| format!("{name} {:.3}", f / 1e12))
            .collect::<Vec<_>>()
            .join(", ")
    ));

    let values = 4.0 * (n[2] + heads) as f64;
    // Both moments and the weights stay. Activations go while the gradients come, but into a pool whose
    // blocks seldom have a gradient's size.
    let (fixed, gradients) = (3.0 * values + teacher_bytes, values);
    let pixels = cost::pixels(own);
    let on_the_way: f64 = [Some(image), Some(text), masked]
        .iter()
        .flatten()
        .map(|tower| tower.training(config.grad_checkpointing))
        .sum();
    let per_pair = 4.0 * (pixels + on_the_way);
    // The pool seldom reuses the teacher's blocks for the student's.
    let fixed = fixed + 4.0 * teacher_passing;
    let data = pixels * (pairs + AHEAD * part);
    let memory = fixed + data + gradients + part * per_pair;
    lines.push(format!(
        "memory   about {} in a step: {} weights and moments{}, {} gradients, {} activations, {} images \
         loaded",
        gigabytes(memory as usize),
        gigabytes((3.0 * values) as usize),
        match teacher_bytes {
            0.0 => String::new(),
            bytes => format!(", {} teacher", gigabytes(bytes as usize)),
        },
        gigabytes(gradients as usize),
        gigabytes((part * per_pair + 4.0 * teacher_passing) as usize),
        gigabytes(data as usize)
    ));
    if let Some(free) = available() {
        let each = per_pair + pixels * (AHEAD + config.accum_freq as f64);
        let largest = ((free - fixed - gradients) / each).floor().max(0.0);
        lines.push(format!(
            "fits     a --batch-size of at most {largest} in the {} that are free here{}",
            gigabytes(free as usize),
            match (config.grad_checkpointing, config.accum_freq) {
                (false, _) => "; --grad-checkpointing and --accum-freq take larger batches",
                (true, 1) => "; --accum-freq takes larger batches",
                _ => "",
            }
        ));
    }
    Ok(lines.join("\n"))
}

/// Bytes of memory that a new process could use, where the system reports it.
fn available() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024.0 * kib)
}

fn millions(n: usize) -> String {
    format!("{:.2} M", n as f64 / 1e6)
}
