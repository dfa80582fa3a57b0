//! A training step by part: teacher, student forward, backward, optimiser. Random weights, images and
//! ids; captions of a dozen words. `benches/peers/step.py` times PyTorch and open_clip on the same work and
//! takes the same flags:
//!
//!     cargo bench --bench step -- --student RN50 --teacher ViT-B-16 --batch 8 --precision amp_bf16
//!     cargo bench --bench step -- --backend cuda --batch 256 --precision amp_bf16
//!
//! Without a teacher the loss is the contrastive one alone. Parts are timed with a wait for the device after each
//! of them; then as many steps again with none in between, replayed by a GPU. The images are on the device
//! throughout. FLOP are counted as `--dry-run` counts them (backward twice the forward pass); the per cent are of the rate
//! of products measured before and after the unbroken steps (on a CPU, of f32 multiply-adds in registers).

mod ceilings;

use ceilings::{Ceiling, Ceilings, Opened, median};
use clap::Parser;
use clip_distill::autodiff::Tape;
use clip_distill::loss::{Features, Head, Heads, Inputs, Method, Objective};
use clip_distill::model::{Bound, Clip, ClipConfig};
use clip_distill::ops;
use clip_distill::optim::{self, AdamW, AdamWConfig};
use clip_distill::run::cost;
use clip_distill::settings::values::{Device, Precision};
use clip_distill::tensor::Normalisation;
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::train::teacher::Teacher;
use std::time::Instant;

// As the programs: see the library's page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps of each kind that are not timed.
const WARM_UP: usize = 2;
/// Measurements of the ceiling before, and as many after.
const MEASURED: usize = 9;

#[derive(Parser)]
struct Flags {
    #[arg(long, default_value = "ViT-T-16")]
    student: String,
    /// A built-in model, or `none`.
    #[arg(long, default_value = "ViT-B-16")]
    teacher: String,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[arg(long, default_value_t = 5)]
    steps: usize,
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
    #[arg(long, value_enum, default_value = "cpu")]
    backend: Device,
    /// The time of each kernel of a step, where an adapter tells: each is then a pass of its own, which takes time itself.
    #[arg(long)]
    each: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The heads from the student's width to the teacher's.
fn bind_heads(bound: &Bound) -> Heads {
    let head = |name: &str| {
        let part = |part| bound.var(&format!("heads.{name}.{part}")).expect("a head");
        Head {
            weight: part("weight").clone(),
            bias: part("bias").clone(),
        }
    };
    Heads {
        image: head("image"),
        text: head("text"),
    }
}

fn random(n: usize, scale: f32) -> Vec<f32> {
    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    (0..n).map(|_| scale * rng.normal()).collect()
}

fn main() {
    let flags = Flags::parse();
    clip_distill::programs::terminal::show();
    let (batch, steps) = (flags.batch, flags.steps);
    let opened = Opened::new(flags.backend, flags.precision, flags.each);
    let (backend, line) = (opened.backend.clone(), &opened.line);
    let clip = |name: &str| Clip::new(ClipConfig::named(name).expect("a built-in model"));
    let student = clip(&flags.student);
    let teacher = (flags.teacher != "none").then(|| {
        let clip = clip(&flags.teacher);
        let parameters = clip.init(backend.as_ref(), 1).expect("weights");
        Teacher::new(clip, parameters, backend.as_ref()).expect("teacher")
    });
    let mut parameters = student.init(backend.as_ref(), 2).expect("student");
    let widths = teacher
        .as_ref()
        .map(|t| [&student, t.clip()].map(|c| c.config().embed_dim));
    let heads = widths.filter(|[from, to]| from != to);
    if let Some([from, to]) = heads {
        for head in ["image", "text"] {
            let weight = random(from * to, 0.03);
            let weight = backend.upload(&[to, from], &weight).expect("weight");
            let bias = backend.upload(&[to], &vec![0.0; to]).expect("bias");
            parameters.push(format!("heads.{head}.weight"), weight);
            parameters.push(format!("heads.{head}.bias"), bias);
        }
    }
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
    let objective = Objective::from(match teacher {
        Some(_) => Method::IntraKd,
        None => Method::Clip,
    });

    let mut rng = Philox::new(0, Purpose::Test, 1, 0);
    let pixels: Vec<u8> = (0..batch * 224 * 224 * 3)
        .map(|_| rng.below(256) as u8)
        .collect();
    let images = backend
        .images(&[batch, 224, 224, 3], &pixels, &Normalisation::OPENAI)
        .expect("images");
    let texts: Vec<Vec<i32>> = (0..batch)
        .map(|_| {
            let mut text = vec![49406];
            text.extend((0..12 + rng.below(5)).map(|_| rng.below(49000) as i32));
            text.push(49407);
            text
        })
        .collect();

    let mut step = |mark: &mut dyn FnMut()| {
        mark();
        let teacher_features = teacher.as_ref().map(|t| {
            let features = t.features(&backend, &pixels, &images, &texts);
            features.expect("teacher")
        });
        mark();
        let (collected, seen) = {
            let tape = Tape::new(backend.clone());
            let bound = parameters.bind_training(&tape);
            let features = Features {
                image: student
                    .encode_image(&tape, &bound, &images)
                    .expect("image tower"),
                text: student
                    .encode_text(&tape, &bound, &texts)
                    .expect("text tower"),
            };
            let exp = |name| ops::exp(&tape, bound.var(name).expect("scale")).expect("exp");
            let (scale, icl_scale) = (exp("logit_scale"), exp("heads.icl_logit_scale"));
            let bound_heads = heads.is_some().then(|| bind_heads(&bound));
            let inputs = Inputs {
                teacher: teacher_features.as_ref(),
                heads: bound_heads.as_ref(),
                icl_scale: Some(&icl_scale),
                ..Inputs::new(&features, &scale)
            };
            let total = objective.evaluate(&tape, &inputs).expect("loss").total;
            mark();
            let mut grads = tape.backward(&total).expect("backward");
            mark();
            let collected = optim::collect(&parameters, &bound, &mut grads);
            (collected, bound.observations())
        };
        parameters
            .update_running(backend.as_ref(), &seen)
            .expect("running statistics");
        adamw
            .step(backend.as_ref(), &mut parameters, &collected, 1e-4, None)
            .expect("step");
        mark();
    };
    let mut ceilings = Ceilings::new(&opened);

    let mut times = [const { Vec::new() }; 5];
    for number in 0..steps + WARM_UP {
        let mut marks = Vec::new();
        step(&mut || {
            ceilings.settle();
            marks.push(Instant::now());
        });
        if number >= WARM_UP {
            for (i, time) in times[..4].iter_mut().enumerate() {
                time.push((marks[i + 1] - marks[i]).as_secs_f64());
            }
            times[4].push((marks[4] - marks[0]).as_secs_f64());
        }
    }
    println!(
        "{} <- {}, {}, batch {batch}, {line}; median of {steps} steps after {WARM_UP} to warm up:",
        flags.student,
        flags.teacher,
        match flags.precision {
            Precision::AmpBf16 => "amp_bf16",
            Precision::AmpFp16 => "amp_fp16",
            Precision::Fp32 => "fp32",
        },
    );
    for (part, time) in ["teacher", "forward", "backward", "optimiser", "step"]
        .iter()
        .zip(times)
    {
        println!("  {part:10} {:.4} s", median(time));
    }
    let mut recurring = || {
        backend.begin_step().expect("a step");
        step(&mut || {});
        backend.end_step().expect("a step");
    };
    let mut ceiling: Vec<f64> = Vec::new();
    let mut measure = |ceilings: &mut Ceilings| {
        ceiling.extend((0..MEASURED).map(|_| ceilings.measure(Ceiling::Products)));
    };
    // Before the steps that recur: what is measured with stays in memory, and theirs must be the same every time.
    measure(&mut ceilings);
    // The first is written down and the second made a graph.
    (0..WARM_UP + 1).for_each(|_| recurring());
    ceilings.settle();
    let replays = backend.replays();
    let start = Instant::now();
    (0..steps).for_each(|_| recurring());
    ceilings.settle();
    let each = start.elapsed().as_secs_f64() / steps as f64;
    let replays = backend.replays() - replays;
    measure(&mut ceilings);
    let ceiling = median(ceiling);
    let parts = cost::step(
        student.config(),
        teacher.as_ref().map(|t| t.clip().config()),
        &objective.weights,
        batch as f64,
        3.0,
        texts.iter().map(Vec::len).sum::<usize>().div_ceil(batch),
    );
    let flop: f64 = parts.iter().map(|(_, flop)| flop).sum();
    println!(
        "  unbroken   {each:.4} s, {:.1} samples/s, {:.2} of {:.2} TFLOP/s: {:.0} %{}",
        batch as f64 / each,
        1e-12 * flop / each,
        1e-12 * ceiling,
        100.0 * flop / each / ceiling,
        match replays {
            0 => String::new(),
            n => format!("; {n} of {steps} replayed"),
        }
    );
    if flags.each {
        ceilings.time(|| step(&mut || {}));
        print!("{}", ceilings.lines());
    }
}
