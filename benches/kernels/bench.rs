//! A kernel's time beside its ceiling.

use crate::Flags;
use crate::ceilings::{Ceiling, Ceilings, Opened, median, random};
use crate::pairs::{LOSSES, Pairs};
use clip_distill::backend::Backend;
use clip_distill::settings::values::Precision;
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use std::hint::black_box;
use std::sync::Arc;

pub struct Bench {
    pub backend: Arc<dyn Backend>,
    pub batch: usize,
    /// Bytes of an activation.
    pub element: usize,
    ceilings: Ceilings,
    line: String,
    repetitions: usize,
    only: String,
    /// Whether an adapter's kernels have lines of their own.
    each: bool,
}

impl Bench {
    pub fn new(flags: &Flags, precision: Precision) -> Self {
        let opened = Opened::new(flags.backend, precision, !flags.host_clock);
        let ceilings = Ceilings::new(&opened);
        let low = ceilings.on_gpu() && precision != Precision::Fp32;
        let Opened { backend, line, .. } = opened;
        Self {
            backend,
            batch: flags.batch,
            element: if low { 2 } else { 4 },
            ceilings,
            line,
            repetitions: flags.repetitions.max(1),
            only: flags.only.clone(),
            each: flags.each,
        }
    }

    /// Prints the device and what it can do at most.
    pub fn ceilings(&mut self) {
        println!("{}, batch {}", self.line, self.batch);
        let measure = |c: &mut Ceilings| (c.measure(Ceiling::Products), c.measure(Ceiling::Copy));
        let (products, copy) = (0..9).map(|_| measure(&mut self.ceilings)).unzip();
        let f16 = self.ceilings.multiply_adds_f16();
        let f16 = f16.map(|flops| format!(", {:.0} in f16", flops / 1e9));
        let what = match self.backend.name() {
            "cuda" => "products",
            _ => "multiply-adds",
        };
        println!(
            "ceilings: {:.0} GFLOP/s of {what}{}, {:.1} GB/s copied\n",
            median(products) / 1e9,
            f16.unwrap_or_default(),
            median(copy) / 1e9
        );
    }

    /// Whether a row of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Prints the median time of `body`, its rate of `work` units, and the share of the ceiling.
    fn row(&mut self, name: &str, work: f64, ceiling: Ceiling, mut body: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        body();
        let mut kernels = String::new();
        let (times, shares) = (0..self.repetitions)
            .map(|_| {
                let before = self.ceilings.measure(ceiling);
                let s = self.ceilings.time(&mut body);
                kernels = self.ceilings.lines();
                (
                    s,
                    work / s / (0.5 * (before + self.ceilings.measure(ceiling))),
                )
            })
            .unzip();
        let s = median(times);
        let unit = match ceiling {
            Ceiling::Products => "GFLOP/s",
            Ceiling::Copy => "GB/s",
        };
        println!(
            "{name:<50}{:>10.3} ms {:>9.1} {unit:<8}{:>5.0} %",
            1e3 * s,
            work / s / 1e9,
            100.0 * median(shares)
        );
        if self.each {
            print!("{kernels}");
        }
    }

    pub fn products(&mut self, name: &str, flop: f64, body: impl FnMut()) {
        self.row(name, flop, Ceiling::Products, body);
    }

    /// `values` are activations that are read or written.
    pub fn moves(&mut self, name: &str, values: usize, body: impl FnMut()) {
        self.bytes(name, self.element * values, body);
    }

    pub fn bytes(&mut self, name: &str, bytes: usize, body: impl FnMut()) {
        self.row(name, bytes as f64, Ceiling::Copy, body);
    }

    /// The losses with their gradients.
    pub fn losses(&mut self, n: usize) {
        let pairs = Pairs::new(self.backend.clone(), n);
        for name in LOSSES {
            self.products(&format!("{name} of {n} pairs"), pairs.flop(name), || {
                black_box(pairs.step(name));
            });
        }
    }

    pub fn tensor(&self, shape: &[usize]) -> Tensor {
        random(self.backend.as_ref(), shape, 1.0)
    }

    /// Uniform in [−size, size).
    pub fn small(&self, shape: &[usize], size: f32) -> Tensor {
        random(self.backend.as_ref(), shape, size)
    }

    /// Row numbers below `rows`.
    pub fn index(&self, n: usize, rows: usize) -> Tensor {
        let mut rng = Philox::new(0, Purpose::Test, 0, 1);
        let data: Vec<i32> = (0..n).map(|_| rng.below(rows as u32) as i32).collect();
        self.backend.upload_i32(&[n], &data).expect("upload")
    }
}
