//! The oracle: every operation and loss written naively in f64, straight from its formula, with
//! gradients by central differences. It is slow, plain and shares nothing with the library, so
//! that an agreement between the two means something. `tests/oracle_self.rs` checks the oracle.

// Each test crate that says `mod oracle;` uses its own part of it.
#![allow(dead_code)]

pub mod adamw;
pub mod attention;
pub mod attention_pool;
pub mod avg_pool;
pub mod batch_norm;
pub mod class_token;
pub mod conv2d;
pub mod embedding;
pub mod exp;
pub mod intra;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod losses;
pub mod patchify;
pub mod select_rows;
pub mod submatrix;
pub mod weighted_sum;

/// A dense row-major array. A scalar has the empty shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape {shape:?} does not hold {} values",
            data.len()
        );
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    pub fn from_f32(shape: &[usize], data: &[f32]) -> Self {
        Self::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    pub fn scalar(value: f64) -> Self {
        Self::new(&[], vec![value])
    }

    pub fn filled(shape: &[usize], value: f64) -> Self {
        Self::new(shape, vec![value; shape.iter().product()])
    }

    pub fn zeros(shape: &[usize]) -> Self {
        Self::filled(shape, 0.0)
    }

    /// The only value of an array of one element.
    pub fn value(&self) -> f64 {
        assert_eq!(self.data.len(), 1, "shape {:?} is no scalar", self.shape);
        self.data[0]
    }

    /// The length of the last axis.
    pub fn width(&self) -> usize {
        *self.shape.last().expect("a scalar has no rows")
    }

    /// How many rows of `width` there are, whatever the leading axes.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    pub fn row(&self, i: usize) -> &[f64] {
        let width = self.width();
        &self.data[i * width..(i + 1) * width]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        let width = self.width();
        &mut self.data[i * width..(i + 1) * width]
    }

    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// ln Σ exp, safe for large values; −∞ for no values.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

pub fn softmax(values: &[f64]) -> Vec<f64> {
    let total = log_sum_exp(values);
    values.iter().map(|v| (v - total).exp()).collect()
}

/// The step of the central differences for an element of magnitude at most one. Small enough for
/// features under a softmax at scale 100, large enough to leave eleven digits after rounding.
pub const STEP: f64 = 1.0 / 16384.0;

/// The gradient of Σ upstream ⊙ f(inputs) with respect to every element of every input.
pub fn numeric_gradients(
    inputs: &[Array],
    f: impl Fn(&[Array]) -> Array,
    upstream: &Array,
) -> Vec<Array> {
    numeric_gradients_with_step(inputs, f, upstream, STEP)
}

/// As `numeric_gradients`, for functions whose curvature asks for another step.
///
/// With D(h) the central difference, the result is (4 D(h/2) − D(h)) / 3, whose error is of order
/// h⁴ (Richardson). The step grows with the element, up to 64 times.
pub fn numeric_gradients_with_step(
    inputs: &[Array],
    f: impl Fn(&[Array]) -> Array,
    upstream: &Array,
    step: f64,
) -> Vec<Array> {
    let mut point = inputs.to_vec();
    let mut gradients = Vec::with_capacity(inputs.len());
    for (k, input) in inputs.iter().enumerate() {
        let mut gradient = Array::zeros(&input.shape);
        for (e, &x) in input.data.iter().enumerate() {
            let mut difference = |h: f64| {
                let (above, below) = (x + h, x - h);
                point[k].data[e] = above;
                let plus = f(&point);
                point[k].data[e] = below;
                let minus = f(&point);
                point[k].data[e] = x;
                assert_eq!(plus.shape, upstream.shape, "upstream has another shape");
                // Subtract element by element, before the sum can lose digits.
                let change: f64 = (plus.data.iter().zip(&minus.data))
                    .zip(&upstream.data)
                    .map(|((p, m), u)| u * (p - m))
                    .sum();
                change / (above - below)
            };
            let h = step * x.abs().clamp(1.0, 64.0);
            gradient.data[e] = (4.0 * difference(h / 2.0) - difference(h)) / 3.0;
        }
        gradients.push(gradient);
    }
    gradients
}

/// Normally distributed values from a seed (SplitMix64 and Box–Muller).
pub fn normal(shape: &[usize], seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let data = (0..shape.iter().product())
        .map(|_| {
            let radius = (-2.0 * uniform().ln()).sqrt();
            radius * (std::f64::consts::TAU * uniform()).cos()
        })
        .collect();
    Array::new(shape, data)
}

/// The largest |a − b| / max(1, |b|) over all elements; infinite if any is not a number.
pub fn worst_difference(a: &Array, b: &Array) -> f64 {
    assert_eq!(a.shape, b.shape);
    (a.data.iter().zip(&b.data)).fold(0.0, |worst: f64, (x, y)| {
        let difference = (x - y).abs() / y.abs().max(1.0);
        if difference.is_nan() {
            f64::INFINITY
        } else {
            worst.max(difference)
        }
    })
}
