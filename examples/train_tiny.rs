//! Distils a tiny student for a few steps, from the library.
//!
//! ```text
//! cargo run --release --example train_tiny
//! ```
//!
//! Data and teacher are the demonstration's. What `train` adds is a run's folder: checkpoints, logs, evaluation, a report.

use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::data::{Augment, Loader, LoaderConfig, Mode, Start, Transform, tokenizer};
use clip_distill::loss::{Method, Objective};
use clip_distill::model::{Clip, ClipConfig};
use clip_distill::optim::{AdamWConfig, Recipe, Schedule, ScheduleKind};
use clip_distill::run::embedded;
use clip_distill::train::{batch::StepBatch, step::Trainer};
use std::error::Error;
use std::sync::Arc;

// Every operation allocates and frees megabytes: an allocator that keeps them is faster. See the library's page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: u64 = 20;

/// An open_clip `model_config` of 32-pixel images, with CLIP's tokenizer cut short to 1 024 tokens.
const STUDENT: &str = r#"{
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 1024, "width": 64, "heads": 2, "layers": 2}
}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let seed = 0;
    let teacher = embedded::teacher(backend.as_ref())?;
    let clip = Clip::new(ClipConfig::from_json(STUDENT)?);
    let parameters = clip.init(backend.as_ref(), seed)?;
    println!(
        "{} parameters learn from {}",
        parameters.elements(),
        teacher.parameters().elements()
    );

    let (own, other) = (&clip.config().text_cfg, &teacher.clip().config().text_cfg);
    let teacher_tokens = tokenizer::for_captions(other.vocab_size, other.context_length)?;
    let size = clip.config().vision_cfg.image_size as u32;
    let loader = LoaderConfig {
        dataset: Arc::new(embedded::training_pairs()?),
        batch_size: 64,
        seed,
        length: None,
        shuffle_buffer: 5000,
        mode: Mode::Train,
        workers: 2,
        prefetch: 2,
        transform: Transform::new(size, Augment::Crop { scale: (0.9, 1.0) })?,
        tokenizer: tokenizer::for_captions(own.vocab_size, own.context_length)?,
    };
    let recipe = Recipe {
        adamw: AdamWConfig {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.1,
        },
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            base: 2e-3,
            warmup: 2,
            total: STEPS,
        },
        max_norm: None,
        accum_freq: 1,
    };
    let objective = Objective::from(Method::IntraKd);
    let mut trainer = Trainer::new(
        backend,
        clip,
        parameters,
        objective,
        Some(teacher),
        recipe,
        seed,
    )?;

    for (step, batch) in Loader::new(loader, Start::default(), 0)?
        .take(STEPS as usize)
        .enumerate()
    {
        let batch = batch?;
        // The two models have vocabularies of their own.
        let teacher_texts: Vec<Vec<i32>> =
            batch.captions.iter().map(|c| teacher_tokens(c)).collect();
        let report = trainer
            .step(StepBatch {
                images: &batch.images,
                normalisation: batch.normalisation,
                texts: &batch.texts,
                teacher_texts: &teacher_texts,
                epoch: 0,
                first: (step * batch.len()) as u64,
            })?
            .wait()?;
        let terms: Vec<String> = report
            .terms
            .iter()
            .map(|(name, x)| format!("{name} {x:.3}"))
            .collect();
        println!(
            "step {:2}  loss {:8.3}  ({})",
            step + 1,
            report.total,
            terms.join(", ")
        );
    }
    Ok(())
}
