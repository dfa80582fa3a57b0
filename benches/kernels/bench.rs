//! A kernel's time beside its ceiling.

use crate::Flags;
use crate::ceilings::Host;
use clip_distill::backend::Backend;
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::train::device;
use clip_distill::train::flags::Precision;
use std::sync::Arc;
use std::time::Instant;

/// A GPU's kernels are too short for the host's clock: so many seconds of them are timed at once.
const SPAN: f64 = 5e-3;

pub fn seconds(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the most that a device can do is measured in.
#[derive(Clone, Copy)]
pub enum Ceiling {
    /// Floating-point operations of products.
    Products,
    /// Bytes read and written.
    Copy,
}

pub struct Bench {
    pub backend: Arc<dyn Backend>,
    pub batch: usize,
    /// Bytes of an activation.
    pub element: usize,
    /// The processor's own ceilings; `None` for those of a GPU.
    pub host: Option<Host>,
    line: String,
    repetitions: usize,
    only: String,
    nothing: Tensor,
}

impl Bench {
    pub fn new(flags: &Flags) -> Self {
        let (backend, line) =
            device::open(flags.backend, 0, flags.precision, None).expect("a device");
        let gpu = backend.name() != "cpu";
        let low = gpu && flags.precision == Precision::AmpBf16;
        Self {
            nothing: backend.zeros(&[1]).expect("zeros"),
            backend,
            batch: flags.batch,
            element: if low { 2 } else { 4 },
            host: (!gpu).then(Host::new),
            line,
            repetitions: flags.repetitions.max(1),
            only: flags.only.clone(),
        }
    }

    /// Prints the device and what it can do at most.
    pub fn ceilings(&mut self) {
        println!("{}, batch {}", self.line, self.batch);
        let measure = |bench: &mut Self| {
            (
                bench.ceiling(Ceiling::Products),
                bench.ceiling(Ceiling::Copy),
            )
        };
        let (products, copy) = (0..9).map(|_| measure(self)).unzip();
        println!(
            "ceilings: {:.0} GFLOP/s of products, {:.1} GB/s copied\n",
            median(products) / 1e9,
            median(copy) / 1e9
        );
    }

    /// Seconds of one run of `body`, with the device done with it.
    pub fn time(&self, mut body: impl FnMut()) -> f64 {
        let settle = || {
            self.backend
                .download(&self.nothing)
                .map(drop)
                .expect("download")
        };
        if self.host.is_some() {
            return seconds(body);
        }
        settle();
        let once = seconds(|| {
            body();
            settle();
        });
        let runs = (SPAN / once).ceil().clamp(1.0, 500.0);
        let all = seconds(|| {
            (0..runs as usize).for_each(|_| body());
            settle();
        });
        all / runs
    }

    /// Prints the median time of `body`, its rate of `work` units, and the share of the ceiling.
    fn row(&mut self, name: &str, work: f64, ceiling: Ceiling, mut body: impl FnMut()) {
        if !name.contains(&self.only) {
            return;
        }
        body();
        let (times, shares) = (0..self.repetitions)
            .map(|_| {
                let before = self.ceiling(ceiling);
                let s = self.time(&mut body);
                (s, work / s / (0.5 * (before + self.ceiling(ceiling))))
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

    pub fn tensor(&self, shape: &[usize]) -> Tensor {
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let data: Vec<f32> = (0..shape.iter().product())
            .map(|_| rng.uniform_in(-1.0, 1.0))
            .collect();
        self.backend.upload(shape, &data).expect("upload")
    }

    /// Row numbers below `rows`.
    pub fn index(&self, n: usize, rows: usize) -> Tensor {
        let mut rng = Philox::new(0, Purpose::Test, 0, 1);
        let data: Vec<i32> = (0..n).map(|_| rng.below(rows as u32) as i32).collect();
        self.backend.upload_i32(&[n], &data).expect("upload")
    }
}
