//! What a device can do at most: the processor by multiply-adds in registers and a copy, a GPU by a large product and a
//! copy of its own.

use crate::bench::{Bench, Ceiling, seconds};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;

/// The processor's ceilings.
pub struct Host {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Host {
    pub fn new() -> Self {
        Self {
            from: vec![1.0; 1 << 24],
            to: vec![0.0; 1 << 24],
        }
    }

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

impl Bench {
    /// FLOP/s or bytes per second.
    pub fn ceiling(&mut self, of: Ceiling) -> f64 {
        match (&mut self.host, of) {
            (Some(host), Ceiling::Products) => host.multiply_adds(),
            (Some(host), Ceiling::Copy) => host.copy(),
            (None, Ceiling::Products) => {
                let n = self.side();
                // Zeros would cost less power, and so run faster.
                let x = self.tensor(&[n, n]);
                let s = self.time(|| {
                    black_box(self.backend.matmul(&x, &x).expect("matmul"));
                });
                2.0 * (n as f64).powi(3) / s
            }
            (None, Ceiling::Copy) => {
                let n = self.side().pow(2);
                let x = self.backend.zeros(&[n]).expect("zeros");
                let s = self.time(|| {
                    black_box(self.backend.copy(&x).expect("copy"));
                });
                8.0 * n as f64 / s
            }
        }
    }

    /// Of the matrices that a GPU is measured with; the emulated one's are tiny.
    fn side(&self) -> usize {
        match self.backend.describe().contains("emulated") {
            true => 64,
            false => 8192,
        }
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
