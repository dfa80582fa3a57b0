//! burn's wgpu backend on what `cargo bench --bench kernels -- --backend wgpu --host-clock --only block` and
//! `--only matmul` time: a transformer block forward and backward, and a product of 4096³, f32, by the host's clock.
//!
//!     cargo run --release -- BATCH REPETITIONS
//!
//! burn tries several kernels of its own at a shape's first runs (autotune): three runs come before those that count.

use burn::nn::transformer::{TransformerEncoderConfig, TransformerEncoderInput};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use std::time::Instant;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds of `body` with the device done with it, `repetitions` times after three.
fn row(name: &str, flop: f64, repetitions: usize, device: &Device, mut body: impl FnMut()) {
    let mut times = Vec::new();
    for _ in 0..repetitions + 3 {
        let start = Instant::now();
        body();
        device.sync().expect("sync");
        times.push(start.elapsed().as_secs_f64());
    }
    let s = median(times.split_off(3));
    println!(
        "{name:<50}{:>10.3} ms {:>9.1} GFLOP/s",
        1e3 * s,
        flop / s / 1e9
    );
}

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|a| a.parse::<usize>().expect("a number"));
    let (batch, repetitions) = (numbers.next().unwrap_or(2), numbers.next().unwrap_or(5));
    let plain = Device::wgpu(DeviceKind::DefaultDevice);
    println!("{plain:?}");
    let device = plain.clone().autodiff();
    for width in [192, 768] {
        let encoder = TransformerEncoderConfig::new(width, 4 * width, width / 64, 1)
            .with_dropout(0.0)
            .with_norm_first(true)
            .init(&device);
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let x = Tensor::<3>::random([batch, 197, width], uniform, &device).require_grad();
        let dy = Tensor::<3>::random([batch, 197, width], uniform, &plain);
        let flop = 3.0 * (batch * 197 * width) as f64 * (24 * width + 4 * 197) as f64;
        let name = format!("block {batch} × 197×{width}, forward and backward");
        row(&name, flop, repetitions, &plain, || {
            let y = encoder.forward(TransformerEncoderInput::new(x.clone()));
            let loss = (y * Tensor::from_inner(dy.clone())).sum();
            let grads = loss.backward();
            std::hint::black_box(x.grad(&grads));
        });
    }
    let n = 4096;
    let x = Tensor::<2>::random([n, n], Distribution::Uniform(-1.0, 1.0), &plain);
    row(
        &format!("matmul {n}³"),
        2.0 * (n as f64).powi(3),
        repetitions.min(3),
        &plain,
        || {
            std::hint::black_box(x.clone().matmul(x.clone()));
        },
    );
}
