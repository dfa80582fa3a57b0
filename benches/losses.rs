//! The losses at growing batch: time of forward and backward, and the memory that they add.
//!
//! `cargo bench --bench losses` prints criterion's times; `BENCH_BACKEND=cuda` for those of a GPU. The
//! intra-modal loss does five products of 2 n² d operations per modality (two tiles forward; two again and
//! one into the gradient backward), so its throughput says how near the products the whole fused operation
//! runs.

mod pairs;

use clip_distill::backend::Backend;
use clip_distill::run::device;
use clip_distill::settings::device::DeviceFlags;
use clip_distill::settings::values::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pairs::{LOSSES, Pairs};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

// As the programs: see the library's page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn on_gpu() -> bool {
    std::env::var("BENCH_BACKEND").is_ok_and(|name| name == "cuda")
}

fn backend() -> Arc<dyn Backend> {
    let device = DeviceFlags {
        backend: if on_gpu() { Device::Cuda } else { Device::Cpu },
        ..DeviceFlags::default()
    };
    static OPENED: OnceLock<Arc<dyn Backend>> = OnceLock::new();
    let open = || device::open(&device).expect("a device");
    OPENED.get_or_init(|| open().0).clone()
}

fn step(name: &str, pairs: &Pairs) {
    let value = pairs.step(name);
    // A GPU may still be at it.
    backend().download(&value).expect("download");
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
    let sizes: &[usize] = if on_gpu() {
        &[8192, 16384, 32768]
    } else {
        &[8192, 16384]
    };
    for &n in sizes {
        let pairs = Pairs::new(backend(), n);
        if on_gpu() {
            // Compiles the kernels and fills the pool.
            step("intra", &pairs);
        }
        // "5" resets the peak to now; elsewhere the peak so far includes making the inputs.
        let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let before = status(if reset { "VmRSS:" } else { "VmHWM:" });
        let start = Instant::now();
        step("intra", &pairs);
        let time = start.elapsed().as_secs_f64();
        let rate = 1e-9 * pairs.flop("intra") / time;
        println!("intra n = {n}: {time:.4} s, {rate:.0} GFLOP/s");
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
        let pairs = Pairs::new(backend(), n);
        group.throughput(Throughput::Elements(n as u64));
        for name in LOSSES {
            group.bench_function(BenchmarkId::new(name, n), |b| b.iter(|| step(name, &pairs)));
        }
    }
    group.finish();
}

criterion_group!(benches, large, times);
criterion_main!(benches);
