//! What a device can do at most: the processor and an adapter of wgpu by multiply-adds in registers and a copy, a GPU of
//! CUDA by a large product and a copy of its own.
#![allow(dead_code)] // each bench uses a part

use clip_distill::backend::gpu::Gpu;
use clip_distill::backend::wgpu;
use clip_distill::backend::{Backend, Info};
use clip_distill::run::device;
use clip_distill::settings::device::DeviceFlags;
use clip_distill::settings::values::{Device, Precision};
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A GPU's kernels are too short for the host's clock: so many seconds of them are timed at once.
const SPAN: f64 = 5e-3;

/// And an adapter's clock ticks coarsely: a measurement of its multiply-adds takes at least so many seconds.
const LEAST_TIME: f64 = 2e-3;

pub fn seconds(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A device for a benchmark.
pub struct Opened {
    pub backend: Arc<dyn Backend>,
    /// What it is.
    pub line: String,
    /// An adapter of wgpu.
    pub adapter: Option<Arc<Gpu>>,
}

impl Opened {
    /// The device of the flags; kernels of an adapter are `timed` by its own clock.
    pub fn new(device: Device, precision: Precision, timed: bool) -> Self {
        // What it does not have is refused by `device::open`.
        if device == Device::Wgpu && precision != Precision::AmpBf16 {
            let options = wgpu::Options {
                f16: precision == Precision::AmpFp16,
                timed,
                ..Default::default()
            };
            let gpu = Arc::new(wgpu::open(&options).expect("a device"));
            return Self {
                backend: gpu.clone(),
                line: gpu.describe(),
                adapter: Some(gpu),
            };
        }
        let flags = DeviceFlags {
            backend: device,
            precision,
            ..DeviceFlags::default()
        };
        let (backend, line) = device::open(&flags).expect("a device");
        Self {
            backend,
            line,
            adapter: None,
        }
    }
}

/// What the most that a device can do is measured in.
#[derive(Clone, Copy)]
pub enum Ceiling {
    /// Floating-point operations of products.
    Products,
    /// Bytes read and written.
    Copy,
}

/// A device and how its work is timed.
pub struct Ceilings {
    backend: Arc<dyn Backend>,
    nothing: Tensor,
    /// The processor's own; `None` for those of a GPU.
    host: Option<Host>,
    adapter: Option<Arc<Gpu>>,
    /// What its kernels took in the last [`Ceilings::time`]: entry, runs, seconds of one run of the body.
    kernels: Vec<(&'static str, f64, f64)>,
    /// Of multiply-adds: enough that the clock can tell.
    rounds: u32,
    /// What a GPU multiplies with itself.
    square: Option<Tensor>,
}

impl Ceilings {
    pub fn new(
        Opened {
            backend, adapter, ..
        }: &Opened,
    ) -> Self {
        let backend = backend.clone();
        Self {
            adapter: adapter.clone(),
            kernels: Vec::new(),
            rounds: 1,
            nothing: backend.zeros(&[1]).expect("zeros"),
            host: (backend.name() == "cpu").then(Host::default),
            square: None,
            backend,
        }
    }

    pub fn on_gpu(&self) -> bool {
        self.host.is_none()
    }

    /// Waits for the device.
    pub fn settle(&self) {
        self.backend
            .download(&self.nothing)
            .map(drop)
            .expect("download");
    }

    /// A line for each of an adapter's kernels in the last [`Ceilings::time`], the longest first.
    pub fn lines(&self) -> String {
        let mut kernels = self.kernels.clone();
        kernels.sort_by(|a, b| b.2.total_cmp(&a.2));
        let line = |(entry, runs, s): (&str, f64, f64)| {
            format!("    {entry:<46}{:>10.3} ms in {runs:.0}\n", 1e3 * s)
        };
        kernels.into_iter().map(line).collect()
    }

    /// Since the last call, by kernel; nothing where they are not timed.
    fn kernel_times(&self) -> Vec<(&'static str, u64, Duration)> {
        let times = self.adapter.as_ref().map(|gpu| gpu.kernel_times());
        times.map_or(Vec::new(), |times| times.expect("times"))
    }

    /// Seconds of one run of `body`, with the device done with it: those of its kernels where the device times them.
    pub fn time(&mut self, mut body: impl FnMut()) -> f64 {
        if !self.on_gpu() {
            return seconds(body);
        }
        self.settle();
        self.kernel_times();
        let once = seconds(|| {
            body();
            self.settle();
        });
        // One run tells how many make up the span.
        let (runs, all) = match (SPAN / once).ceil().clamp(1.0, 500.0) {
            1.0 => (1.0, once),
            runs => {
                self.kernel_times();
                let run = || {
                    (0..runs as usize).for_each(|_| body());
                    self.settle();
                };
                (runs, seconds(run))
            }
        };
        let times = self.kernel_times();
        if times.is_empty() {
            return all / runs;
        }
        let each = |(entry, count, time): (_, u64, Duration)| {
            (entry, count as f64 / runs, time.as_secs_f64() / runs)
        };
        self.kernels = times.into_iter().map(each).collect();
        self.kernels.iter().map(|k| k.2).sum()
    }

    /// An adapter's multiply-adds in registers, per second.
    fn multiply_adds(&mut self, gpu: &Gpu, f16: bool) -> f64 {
        loop {
            let (rounds, mut flop) = (self.rounds, 0.0);
            let s =
                self.time(|| flop = wgpu::multiply_adds(gpu, f16, rounds).expect("multiply-adds"));
            if s > LEAST_TIME || rounds > 1 << 20 {
                return flop / s;
            }
            self.rounds *= 2;
        }
    }

    /// The same in f16, where it has f16.
    pub fn multiply_adds_f16(&mut self) -> Option<f64> {
        let gpu = self.adapter.clone()?;
        gpu.scales_losses().then(|| self.multiply_adds(&gpu, true))
    }

    /// FLOP/s or bytes per second, now.
    pub fn measure(&mut self, of: Ceiling) -> f64 {
        let backend = self.backend.clone();
        match (&mut self.host, of) {
            (Some(host), Ceiling::Products) => host.multiply_adds(),
            (Some(host), Ceiling::Copy) => host.copy(),
            (None, Ceiling::Products) => {
                if let Some(gpu) = self.adapter.clone() {
                    return self.multiply_adds(&gpu, false);
                }
                let n = self.side();
                // Zeros would cost less power, and so run faster.
                let made = || random(self.backend.as_ref(), &[n, n], 1.0);
                let x = self.square.take().unwrap_or_else(made);
                let s = self.time(|| {
                    black_box(backend.matmul(&x, &x).expect("matmul"));
                });
                self.square = Some(x);
                2.0 * (n as f64).powi(3) / s
            }
            (None, Ceiling::Copy) => {
                let n = self.side().pow(2);
                let x = self.backend.zeros(&[n]).expect("zeros");
                let s = self.time(|| {
                    black_box(backend.copy(&x).expect("copy"));
                });
                8.0 * n as f64 / s
            }
        }
    }

    /// Of the matrices that a GPU is measured with; the emulated one's are tiny.
    fn side(&self) -> usize {
        match self.backend.describe() {
            line if line.contains("emulated") => 64,
            line if line.contains("llvmpipe") => 2048,
            _ => 8192,
        }
    }
}

/// Uniform in [−size, size).
pub fn random(backend: &dyn Backend, shape: &[usize], size: f32) -> Tensor {
    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    let data: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.uniform_in(-size, size))
        .collect();
    backend.upload(shape, &data).expect("upload")
}

/// The processor's ceilings, and what is copied once that is asked for.
#[derive(Default)]
struct Host {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Host {
    /// Multiply-adds per second of all threads, in FLOP/s.
    fn multiply_adds(&self) -> f64 {
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
        if self.from.is_empty() {
            self.from = vec![1.0; 1 << 24];
            self.to = vec![0.0; 1 << 24];
        }
        let chunk = self.from.len() / rayon::current_num_threads();
        let parts = self
            .to
            .par_chunks_mut(chunk)
            .zip(self.from.par_chunks(chunk));
        let s = seconds(|| parts.for_each(|(to, from)| to.copy_from_slice(from)));
        black_box(&self.to);
        8.0 * self.from.len() as f64 / s
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
