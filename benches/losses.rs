//! The losses at growing batch: time of forward and backward, and the memory that they add.
//!
//! `cargo bench --bench losses` prints criterion's times; `BENCH_BACKEND=cuda` for those of a GPU. The
//! intra-modal loss does five products of 2 n² d operations per modality (two tiles forward; two again and
//! one into the gradient backward), so its throughput says how near the products the whole fused operation
//! runs.

use clip_distill::autodiff::Tape;
use clip_distill::backend::Backend;
use clip_distill::loss::{Features, Intra, TeacherFeatures, affinity, clip, crd, gd, icl, intra};
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::train::device;
use clip_distill::train::flags::{Device, Precision};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const WIDTH: usize = 512;

/// Unit features of one batch, student's and teacher's.
struct Batch {
    backend: Arc<dyn Backend>,
    student: [Tensor; 2],
    scale: Tensor,
    teacher: TeacherFeatures,
}

fn on_gpu() -> bool {
    std::env::var("BENCH_BACKEND").is_ok_and(|name| name == "cuda")
}

fn backend() -> Arc<dyn Backend> {
    let device = if on_gpu() { Device::Cuda } else { Device::Cpu };
    static OPENED: OnceLock<Arc<dyn Backend>> = OnceLock::new();
    let open = || device::open(device, 0, Precision::Fp32, None).expect("a device");
    OPENED.get_or_init(|| open().0).clone()
}

fn batch(n: usize) -> Batch {
    let backend = backend();
    let unit = |index| {
        let mut rng = Philox::new(1, Purpose::Test, 0, index);
        let x: Vec<f32> = (0..n * WIDTH).map(|_| rng.normal()).collect();
        let x = backend.upload(&[n, WIDTH], &x).expect("upload");
        backend.l2_normalize(&x).expect("l2_normalize").0
    };
    let scale = |x| backend.upload(&[1], &[x]).expect("upload");
    Batch {
        student: [unit(0), unit(1)],
        scale: scale(14.3),
        teacher: TeacherFeatures {
            image: unit(2),
            text: unit(3),
            scale: scale(50.0),
        },
        backend: backend.clone(),
    }
}

/// Loss and gradients of all variables once.
fn step(name: &str, batch: &Batch) {
    let tape = Tape::new(batch.backend.clone());
    let [image, text] = batch.student.clone().map(|x| tape.leaf(x));
    let (student, scale) = (Features { image, text }, tape.leaf(batch.scale.clone()));
    let value = match name {
        "clip" => clip(&tape, &student, &scale),
        "crd" => crd(&tape, &student, &scale, &batch.teacher),
        "icl" => icl(&tape, &student, &scale, &batch.teacher),
        "affinity" => affinity(&tape, &student, &scale, &batch.teacher),
        "gd" => gd(&tape, &student, &scale, &batch.teacher),
        _ => intra(
            &tape,
            &student,
            &scale,
            &batch.teacher,
            &Intra::default(),
            &scale,
        ),
    }
    .expect("loss");
    tape.backward(&value).expect("backward");
    // A GPU may still be at it.
    batch.backend.download(value.value()).expect("download");
}

/// A line of /proc/self/status in MiB; `None` where there is no such file.
fn status(key: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<f64>()
        .ok()
        .map(|kib| kib / 1024.0)
}

/// Time and peak memory of the host, above what its inputs hold, of one step at batches too slow to sample.
/// Runs first: where the peak cannot be reset, it never falls.
fn large(_: &mut Criterion) {
    for n in [8192, 16384] {
        let batch = batch(n);
        if on_gpu() {
            // Compiles the kernels and fills the pool.
            step("intra", &batch);
        }
        // "5" resets the peak to now; elsewhere the peak so far includes making the inputs.
        let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let before = status(if reset { "VmRSS:" } else { "VmHWM:" });
        let start = Instant::now();
        step("intra", &batch);
        let time = start.elapsed().as_secs_f64();
        let work = 2.0 * 5.0 * 2.0 * (n * n * WIDTH) as f64 * 1e-9;
        println!("intra n = {n}: {time:.4} s, {:.0} GFLOP/s", work / time);
        if let (Some(before), Some(after), false) = (before, status("VmHWM:"), on_gpu()) {
            let matrix = (n * n * 4) as f64 / 1048576.0;
            let added = after - before;
            println!(
                "  inputs {before:.0} MiB, peak +{added:.0} MiB; one n×n matrix: {matrix:.0} MiB"
            );
        }
    }
}

fn times(c: &mut Criterion) {
    let mut group = c.benchmark_group("loss");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(2));
    for n in [1024, 2048, 4096] {
        let batch = batch(n);
        // Elements: pairs of the batch.
        group.throughput(Throughput::Elements(n as u64));
        for name in ["intra", "clip", "crd", "icl", "affinity", "gd"] {
            group.bench_function(BenchmarkId::new(name, n), |b| b.iter(|| step(name, &batch)));
        }
    }
    group.finish();
}

criterion_group!(benches, large, times);
criterion_main!(benches);
