//! Each kernel of the CPU backend beside its ceiling: GFLOP/s and per cent of the multiply-adds that
//! the processor was just seen to do, GB/s and per cent of a copy's speed. Shapes are those of
//! ViT-B-16 (the teacher) and ViT-T-16 and RN50 (students) at batch 16.
//!
//! Shared machines change their speed from second to second, so a ceiling is measured again beside
//! each repetition of each kernel, and the per cent are medians of those ratios.
//!
//! `cargo bench --bench kernels`; `KERNELS_BENCH=9` for nine repetitions.

use clip_distill::backend::{Activation, Backend, Convolution, Segments, cpu::Cpu};
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

struct Bench {
    cpu: Cpu,
    repetitions: usize,
    from: Vec<f32>,
    to: Vec<f32>,
}

fn seconds(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Bench {
    /// Multiply-adds per second of all threads, in FLOP/s.
    fn peak(&mut self) -> f64 {
        let threads = rayon::current_num_threads();
        let mut flop = 0.0;
        let s = seconds(|| {
            let work = |_| Arch::new().dispatch(MultiplyAdds(200_000));
            flop = (0..threads).into_par_iter().map(work).sum();
        });
        flop / s
    }

    /// Bytes per second of a copy by all threads, read and written.
    fn copy(&mut self) -> f64 {
        let chunk = self.from.len() / rayon::current_num_threads();
        let parts = self
            .to
            .par_chunks_mut(chunk)
            .zip(self.from.par_chunks(chunk));
        let s = seconds(|| parts.for_each(|(to, from)| to.copy_from_slice(from)));
        black_box(&self.to);
        8.0 * self.from.len() as f64 / s
    }

    /// Prints the median time of `body`, its rate of `work` units, and the share of `ceiling`.
    fn row(
        &mut self,
        name: &str,
        (work, unit): (f64, &str),
        ceiling: fn(&mut Self) -> f64,
        mut body: impl FnMut(),
    ) {
        body();
        let (times, shares) = (0..self.repetitions)
            .map(|_| {
                let before = ceiling(self);
                let s = seconds(&mut body);
                (s, work / s / (0.5 * (before + ceiling(self))))
            })
            .unzip();
        let s = median(times);
        println!(
            "{name:<46}{:>9.2} ms {:>8.1} {unit:<8}{:>5.0} %",
            1e3 * s,
            work / s / 1e9,
            100.0 * median(shares)
        );
    }

    fn products(&mut self, name: &str, flop: f64, body: impl FnMut()) {
        self.row(name, (flop, "GFLOP/s"), Self::peak, body);
    }

    fn moves(&mut self, name: &str, elements: usize, body: impl FnMut()) {
        self.row(name, (4.0 * elements as f64, "GB/s"), Self::copy, body);
    }

    fn tensor(&self, shape: &[usize]) -> Tensor {
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let data: Vec<f32> = (0..shape.iter().product())
            .map(|_| rng.uniform_in(-1.0, 1.0))
            .collect();
        self.cpu.upload(shape, &data).expect("upload")
    }

    fn linear(&mut self, rows: usize, inner: usize, out: usize, act: Activation) {
        let cpu = self.cpu;
        let (x, w) = (self.tensor(&[rows, inner]), self.tensor(&[out, inner]));
        let (b, dy) = (self.tensor(&[out]), self.tensor(&[rows, out]));
        let flop = 2.0 * (rows * inner * out) as f64;
        let name = format!("linear {rows}×{inner}→{out} {act:?}");
        self.products(&format!("{name} forward"), flop, || {
            let y = cpu.linear(&x, &w, Some(&b), None, act, true);
            black_box(y.expect("linear"));
        });
        let pre = (act != Activation::None).then_some(&dy);
        self.products(&format!("{name} backward"), 2.0 * flop, || {
            let (mut dx, mut dw, mut db) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dw), Some(&mut db));
            cpu.linear_backward(&dy, &x, &w, pre, act, slots.0, slots.1, slots.2)
                .expect("linear");
            black_box((dx, dw, db));
        });
    }

    fn attention(&mut self, name: &str, lengths: &[usize], heads: usize, causal: bool) {
        let cpu = self.cpu;
        let segments = Segments::new(&cpu, lengths.iter().copied()).expect("segments");
        let total: usize = lengths.iter().sum();
        let width = heads * 64;
        let qkv = self.tensor(&[total, 3 * width]);
        let dout = self.tensor(&[total, width]);
        let pairs: usize = lengths.iter().map(|l| l * l).sum();
        let flop = 4.0 * (pairs * width) as f64 * if causal { 0.5 } else { 1.0 };
        let (out, lse) = self
            .cpu
            .attention(&qkv, &segments, heads, causal)
            .expect("attention");
        self.products(&format!("attention {name} forward"), flop, || {
            let y = cpu.attention(&qkv, &segments, heads, causal);
            black_box(y.expect("attention"));
        });
        self.products(&format!("attention {name} backward"), 2.5 * flop, || {
            let mut dqkv = None;
            cpu.attention_backward(
                &dout,
                &qkv,
                &out,
                &lse,
                &segments,
                heads,
                causal,
                Some(&mut dqkv),
            )
            .expect("attention");
            black_box(dqkv);
        });
    }

    fn conv2d(&mut self, side: usize, inputs: usize, outputs: usize, stride: usize) {
        let cpu = self.cpu;
        let shape = Convolution {
            kernel: 3,
            stride,
            padding: 1,
        };
        let x = self.tensor(&[16, side, side, inputs]);
        let w = self.tensor(&[outputs, 9 * inputs]);
        let small = shape.output(side);
        let dy = self.tensor(&[16, small, small, outputs]);
        let flop = 2.0 * (16 * small * small * 9 * inputs * outputs) as f64;
        let name = format!("conv2d 16 × {side}²×{inputs}→{outputs} /{stride}");
        self.products(&format!("{name} forward"), flop, || {
            black_box(cpu.conv2d(&x, &w, shape).expect("conv2d"));
        });
        // An image has no gradient.
        let wanted = if inputs == 3 { 1.0 } else { 2.0 };
        self.products(&format!("{name} backward"), wanted * flop, || {
            let (mut dx, mut dw) = (None, None);
            let dx_slot = (inputs != 3).then_some(&mut dx);
            cpu.conv2d_backward(&dy, &x, &w, shape, dx_slot, Some(&mut dw))
                .expect("conv2d");
            black_box((dx, dw));
        });
    }

    fn batch_norm(&mut self, side: usize, channels: usize) {
        let cpu = self.cpu;
        let shape = [16, side, side, channels];
        let (x, dy) = (self.tensor(&shape), self.tensor(&shape));
        let (g, b) = (self.tensor(&[channels]), self.tensor(&[channels]));
        let moments = cpu.batch_moments(&x).expect("moments");
        let y = cpu.batch_norm(&x, &g, &b, &moments, 1e-5, None, true);
        let y = y.expect("batch_norm");
        let name = format!("batch_norm + ReLU 16 × {side}²×{channels}");
        // x is read for its moments, and again.
        self.moves(&format!("{name} forward"), 3 * x.len(), || {
            let moments = cpu.batch_moments(&x).expect("moments");
            let y = cpu.batch_norm(&x, &g, &b, &moments, 1e-5, None, true);
            black_box(y.expect("batch_norm"));
        });
        // dy, x and y are read for the sums, and again for dx.
        self.moves(&format!("{name} backward"), 7 * x.len(), || {
            let (mut dx, mut dg, mut db) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dg), Some(&mut db));
            cpu.batch_norm_backward(
                &dy,
                &x,
                Some(&y),
                &g,
                &moments,
                1e-5,
                true,
                slots.0,
                slots.1,
                slots.2,
                None,
            )
            .expect("batch_norm");
            black_box((dx, dg, db));
        });
    }

    fn pools(&mut self) {
        let cpu = self.cpu;
        let shape = [16, 56, 56, 256];
        let x = self.tensor(&shape);
        let y = cpu.avg_pool(&x, 2).expect("avg_pool");
        let moved = x.len() + y.len();
        self.moves("avg_pool 16 × 56²×256 by 2 forward", moved, || {
            black_box(cpu.avg_pool(&x, 2).expect("avg_pool"));
        });
        self.moves("avg_pool 16 × 56²×256 by 2 backward", moved, || {
            let mut dx = None;
            cpu.avg_pool_backward(&y, &shape, 2, Some(&mut dx))
                .expect("avg_pool");
            black_box(dx);
        });
        let x = self.tensor(&[16, 7, 7, 2048]);
        let positions = self.tensor(&[50, 2048]);
        let tokens = cpu.prepend_mean(&x, &positions).expect("tokens");
        self.moves("prepend_mean 16 × 7²×2048 forward", 2 * x.len(), || {
            black_box(cpu.prepend_mean(&x, &positions).expect("tokens"));
        });
        let q = self.tensor(&[16, 2048]);
        let moved = 2 * tokens.len();
        self.moves("attention_pool 16 × 50, 32 heads forward", moved, || {
            black_box(cpu.attention_pool(&q, &tokens, &tokens, 32).expect("pool"));
        });
    }

    fn layer_norm(&mut self, rows: usize, width: usize) {
        let cpu = self.cpu;
        let (x, dy) = (self.tensor(&[rows, width]), self.tensor(&[rows, width]));
        let (g, b) = (self.tensor(&[width]), self.tensor(&[width]));
        let norm = cpu.layer_norm(&x, &g, &b, 1e-5).expect("layer_norm");
        self.moves(
            &format!("layer_norm {rows}×{width} forward"),
            2 * rows * width,
            || {
                black_box(cpu.layer_norm(&x, &g, &b, 1e-5).expect("layer_norm"));
            },
        );
        self.moves(
            &format!("layer_norm {rows}×{width} backward"),
            3 * rows * width,
            || {
                let (mut dx, mut dg, mut db) = (None, None, None);
                let slots = (Some(&mut dx), Some(&mut dg), Some(&mut db));
                cpu.layer_norm_backward(
                    &dy, &x, &g, &norm.mean, &norm.rstd, slots.0, slots.1, slots.2,
                )
                .expect("layer_norm");
                black_box((dx, dg, db));
            },
        );
    }
}

/// Independent multiply-adds in registers, the most this processor does.
struct MultiplyAdds(usize);

impl WithSimd for MultiplyAdds {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let splat = |x| simd.splat_f32s(black_box(x));
        let (x, y) = (splat(0.999), splat(0.001));
        let mut sums = [splat(1.0); 12];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(x, *sum, y);
            }
        }
        let last = sums.into_iter().fold(y, |a, b| simd.add_f32s(a, b));
        black_box(last);
        (2 * 12 * S::F32_LANES * self.0) as f64
    }
}

fn main() {
    let repetitions = std::env::var("KERNELS_BENCH")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5);
    let mut bench = Bench {
        cpu: Cpu::new(),
        repetitions,
        from: vec![1.0; 1 << 24],
        to: vec![0.0; 1 << 24],
    };
    println!("{}", bench.cpu.describe());
    let (peak, copy) = (0..9).map(|_| (bench.peak(), bench.copy())).unzip();
    println!(
        "ceilings: {:.0} GFLOP/s f32, {:.1} GB/s copied\n",
        median(peak) / 1e9,
        median(copy) / 1e9
    );
    let images = 16 * 197;
    for (width, act) in [(768, Activation::Gelu), (192, Activation::Gelu)] {
        bench.linear(images, width, 3 * width, Activation::None);
        bench.linear(images, width, width, Activation::None);
        bench.linear(images, width, 4 * width, act);
        bench.linear(images, 4 * width, width, Activation::None);
        bench.layer_norm(images, width);
    }
    bench.linear(16 * 15, 384, 3 * 384, Activation::None);
    bench.attention("16 × 197, 12 heads", &[197; 16], 12, false);
    bench.attention("16 × 197, 3 heads", &[197; 16], 3, false);
    bench.attention("16 × 15 causal, 8 heads", &[15; 16], 8, true);
    bench.conv2d(224, 3, 32, 2);
    bench.conv2d(112, 32, 64, 1);
    bench.conv2d(56, 64, 64, 1);
    bench.conv2d(14, 256, 256, 1);
    bench.conv2d(7, 512, 512, 1);
    bench.batch_norm(56, 256);
    bench.batch_norm(14, 1024);
    bench.pools();
}
