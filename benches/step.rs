//! The distillation step ViT-T-16 ← ViT-B-16 at batch 16 in f32, captions of a dozen words, by part:
//! teacher, student forward, backward, optimiser. `benches/peers/step.py` times PyTorch and
//! open_clip on the same work. `STEP_BENCH=batch,steps` changes the size, `STEP_PRECISION=bf16` the
//! products.

use clip_distill::autodiff::Tape;
use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::loss::{Features, Inputs, Method, Objective, TeacherFeatures};
use clip_distill::model::{Clip, ClipConfig};
use clip_distill::ops;
use clip_distill::optim::{self, AdamW, AdamWConfig};
use clip_distill::tensor::rng::{Philox, Purpose};
use std::sync::Arc;
use std::time::Instant;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let size = std::env::var("STEP_BENCH").unwrap_or_else(|_| "16,5".into());
    let (batch, steps) = size.split_once(',').expect("STEP_BENCH=batch,steps");
    let batch: usize = batch.parse().expect("a batch size");
    let steps: usize = steps.parse().expect("a number of steps");
    let cpu = match std::env::var("STEP_PRECISION").as_deref() {
        Ok("bf16") => Cpu::bf16().expect("a processor with AVX512-BF16"),
        _ => Cpu::new(),
    };
    let backend: Arc<dyn Backend> = Arc::new(cpu);
    println!("{}", backend.describe());
    let clip = |name| Clip::new(ClipConfig::named(name).expect("built in"));
    let (student, teacher) = (clip("ViT-T-16"), clip("ViT-B-16"));
    let frozen = teacher.init(backend.as_ref(), 1).expect("teacher");
    let mut parameters = student.init(backend.as_ref(), 2).expect("student");
    let icl = backend
        .upload(&[1], &[(1.0f32 / 0.07).ln()])
        .expect("scale");
    parameters.push("heads.icl_logit_scale", icl);
    let config = AdamWConfig {
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.1,
    };
    let mut adamw = AdamW::new(config, backend.as_ref(), &parameters).expect("moments");
    let objective = Objective::from(Method::IntraKd);

    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    let pixels: Vec<f32> = (0..batch * 224 * 224 * 3).map(|_| rng.normal()).collect();
    let images = backend
        .upload(&[batch, 224, 224, 3], &pixels)
        .expect("images");
    let texts: Vec<Vec<i32>> = (0..batch)
        .map(|_| {
            let mut text = vec![49406];
            text.extend((0..12 + rng.below(5)).map(|_| rng.below(49000) as i32));
            text.push(49407);
            text
        })
        .collect();

    let mut times = [const { Vec::new() }; 5];
    for step in 0..=steps {
        let mut marks = vec![Instant::now()];
        let tape = Tape::frozen(backend.clone());
        let bound = frozen.bind(&tape);
        let unit = |x| ops::l2_normalize(&tape, &x).expect("unit").value().clone();
        let scale = ops::exp(&tape, bound.var("logit_scale").expect("scale")).expect("exp");
        let teacher_features = TeacherFeatures {
            image: unit(
                teacher
                    .encode_image(&tape, &bound, &images)
                    .expect("image tower"),
            ),
            text: unit(
                teacher
                    .encode_text(&tape, &bound, &texts)
                    .expect("text tower"),
            ),
            scale: scale.value().clone(),
        };
        marks.push(Instant::now());
        let collected = {
            let tape = Tape::new(backend.clone());
            let bound = parameters.bind(&tape);
            let features = Features {
                image: student
                    .encode_image(&tape, &bound, &images)
                    .expect("image tower"),
                text: student
                    .encode_text(&tape, &bound, &texts)
                    .expect("text tower"),
            };
            let scale = |name| ops::exp(&tape, bound.var(name).expect("scale")).expect("exp");
            let inputs = Inputs {
                student: &features,
                scale: &scale("logit_scale"),
                teacher: Some(&teacher_features),
                heads: None,
                icl_scale: Some(&scale("heads.icl_logit_scale")),
            };
            let total = objective.evaluate(&tape, &inputs).expect("loss").total;
            marks.push(Instant::now());
            let mut grads = tape.backward(&total).expect("backward");
            marks.push(Instant::now());
            optim::collect(&parameters, &bound, &mut grads)
        };
        adamw
            .step(backend.as_ref(), &mut parameters, &collected, 1e-4, None)
            .expect("step");
        marks.push(Instant::now());
        if step > 0 {
            for (i, time) in times[..4].iter_mut().enumerate() {
                time.push((marks[i + 1] - marks[i]).as_secs_f64());
            }
            times[4].push((marks[4] - marks[0]).as_secs_f64());
        }
    }
    println!("batch {batch}, median of {steps} steps after one warm-up:");
    for (part, time) in ["teacher", "forward", "backward", "optimiser", "step"]
        .iter()
        .zip(times)
    {
        println!("  {part:10} {:.3} s", median(time));
    }
}
