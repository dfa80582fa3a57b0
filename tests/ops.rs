//! Every operation, forward and every gradient, against the f64 oracle at drawn shapes.

use check::{check, check_on, check_shape, coarse, cpu_bf16};
use clip_distill::autodiff::{Grads, Tape, Var};
use clip_distill::backend::Op;
use clip_distill::backend::{Activation, Backend, Convolution, Moments, Segments, cpu::Cpu};
use clip_distill::ops::{self, Cut, Statistics, Tail};
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::tensor::{Normalisation, Tensor};
use oracle::linear::Activation as OracleActivation;
use oracle::{Array, normal};
use proptest::prelude::*;
use std::sync::Arc;

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

fn scaled(shape: &[usize], seed: u64, factor: f64) -> Array {
    let mut a = normal(shape, seed);
    a.data.iter_mut().for_each(|v| *v *= factor);
    a
}

fn index(tape: &Tape, ids: &[usize]) -> Tensor {
    let ids: Vec<i32> = ids.iter().map(|&i| i as i32).collect();
    tape.backend()
        .upload_i32(&[ids.len()], &ids)
        .expect("upload")
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

const ACTIVATIONS: [(Activation, OracleActivation); 3] = [
    (Activation::None, OracleActivation::None),
    (Activation::Gelu, OracleActivation::Gelu),
    (Activation::QuickGelu, OracleActivation::QuickGelu),
];

/// Sizes around the kernels' vector and block widths: 1, primes, powers of two and their
/// neighbours.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..20, Just(31), Just(33)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn linear(rows in size(), inner in size(), out in size(), act in 0usize..3, seed: u64) {
        let (act, reference) = ACTIVATIONS[act];
        let inputs = [
            normal(&[rows, inner], seed),
            scaled(&[out, inner], seed ^ 1, 0.3),
            normal(&[out], seed ^ 2),
            normal(&[rows, out], seed ^ 3),
        ];
        check("linear", &inputs, |tape, v| {
            ops::linear(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]), act)
        }, |a| oracle::linear::linear(&a[0], &a[1], Some(&a[2]), reference, Some(&a[3])));
        check("linear without bias", &inputs[..2], |tape, v| {
            ops::linear(tape, &v[0], &v[1], None, None, act)
        }, |a| oracle::linear::linear(&a[0], &a[1], None, reference, None));
    }

    #[test]
    fn layer_norm(rows in size(), width in 3usize..40, seed: u64) {
        let inputs = [normal(&[rows, width], seed), normal(&[width], seed ^ 1),
            normal(&[width], seed ^ 2)];
        check("layer_norm", &inputs, |tape, v| ops::layer_norm(tape, &v[0], &v[1], &v[2], 1e-5),
            |a| oracle::layer_norm::layer_norm(&a[0], &a[1], &a[2]));
    }

    #[test]
    fn attention(
        lengths in prop::collection::vec(1usize..9, 1..4),
        heads in 1usize..4,
        dim in 1usize..9,
        causal: bool,
        seed: u64,
    ) {
        let mut offsets = vec![0];
        for length in &lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let total = offsets[lengths.len()];
        let inputs = [normal(&[total, 3 * heads * dim], seed)];
        check_shape("attention", &[total, heads, dim], &inputs, |tape, v| {
            let segments = Segments::new(tape.backend(), lengths.iter().copied())?;
            ops::attention(tape, &v[0], &segments, heads, causal)
        }, |a| oracle::attention::attention(&a[0], &offsets, heads, causal));
    }

    #[test]
    fn embedding(width in size(), vocab in 1usize..9, rows in 1usize..9, seed: u64) {
        let ids: Vec<usize> = (0..rows).map(|r| (r * 7 + seed as usize % 5) % vocab).collect();
        let pos: Vec<usize> = (0..rows).map(|r| r % 4).collect();
        let inputs = [normal(&[vocab, width], seed), normal(&[4, width], seed ^ 1)];
        // A row of a table that no token uses has gradient zero, not none: both tables take part.
        check("embedding", &inputs, |tape, v| {
            ops::embedding(tape, &v[0], &v[1], &index(tape, &ids), &index(tape, &pos))
        }, |a| oracle::embedding::embedding(&a[0], &a[1], &ids, &pos));
    }

    #[test]
    fn prepend_class(batch in 1usize..5, len in 1usize..9, width in size(), seed: u64) {
        let inputs = [normal(&[batch * len, width], seed), normal(&[width], seed ^ 1),
            normal(&[1 + len, width], seed ^ 2)];
        check("prepend_class", &inputs, |tape, v| ops::prepend_class(tape, &v[0], &v[1], &v[2]),
            |a| oracle::class_token::class_token(&a[0], &a[1], &a[2]));
    }

    #[test]
    fn select_rows(rows in 1usize..9, width in size(), n in 1usize..6, seed: u64) {
        let picked: Vec<usize> = (0..n).map(|i| (i * 3 + seed as usize % 7) % rows).collect();
        let inputs = [normal(&[rows, width], seed)];
        check("select_rows", &inputs, |tape, v| {
            ops::select_rows(tape, &v[0], &index(tape, &picked))
        }, |a| oracle::select_rows::select_rows(&a[0], &picked));
    }

    #[test]
    fn submatrix(height in 1usize..40, width in size(), m in 1usize..40, n in 1usize..40, seed: u64) {
        // As many as there are at most, not in order, none twice.
        let some = |of: usize, n: usize| -> Vec<usize> {
            let stride = (0..).map(|k| of / 2 + 1 + k).find(|&s| gcd(s, of) == 1);
            (0..n.min(of)).map(|i| (seed as usize % of + i * stride.expect("a stride")) % of).collect()
        };
        let (rows, columns) = (some(height, m), some(width, n));
        let inputs = [
            normal(&[height, width], seed),
            normal(&[rows.len()], seed ^ 1),
            normal(&[columns.len()], seed ^ 2),
        ];
        let one = |n: usize| Array::filled(&[n], 1.0);
        let cut = |tape: &Tape, x: &Var, r: Option<&Var>, c: Option<&Var>| {
            let (rows, columns) = (index(tape, &rows), index(tape, &columns));
            ops::submatrix(tape, x, Cut { rows: &rows, columns: &columns, row_gate: r, column_gate: c })
        };
        let reference = oracle::submatrix::submatrix;
        check("submatrix", &inputs, |tape, v| cut(tape, &v[0], Some(&v[1]), Some(&v[2])),
            |a| reference(&a[0], &rows, &columns, &a[1], &a[2]));
        check("submatrix without gates", &inputs[..1], |tape, v| cut(tape, &v[0], None, None),
            |a| reference(&a[0], &rows, &columns, &one(rows.len()), &one(columns.len())));
        let vector = [normal(&[width], seed ^ 3), inputs[2].clone()];
        check("submatrix of a vector", &vector, |tape, v| {
            let (rows, columns) = (index(tape, &[0]), index(tape, &columns));
            let cut = Cut { rows: &rows, columns: &columns, row_gate: None, column_gate: Some(&v[1]) };
            ops::submatrix(tape, &v[0], cut)
        }, |a| {
            let x = Array::new(&[1, width], a[0].data.clone());
            let y = reference(&x, &[0], &columns, &one(1), &a[1]);
            Array::new(&[columns.len()], y.data)
        });
    }

    #[test]
    fn l2_normalize(rows in size(), width in 2usize..40, seed: u64) {
        let inputs = [normal(&[rows, width], seed)];
        check("l2_normalize", &inputs, |tape, v| ops::l2_normalize(tape, &v[0]),
            |a| oracle::l2_normalize::l2_normalize(&a[0]));
    }

    #[test]
    fn small_operations(rows in size(), width in size(), seed: u64) {
        let inputs = [normal(&[rows, width], seed), normal(&[rows, width], seed ^ 1)];
        check("exp", &inputs[..1], |tape, v| ops::exp(tape, &v[0]), |a| oracle::exp::exp(&a[0]));
        check("weighted_sum", &inputs, |tape, v| {
            ops::weighted_sum(tape, &[(&v[0], 0.5), (&v[1], -2.0)])
        }, |a| oracle::weighted_sum::weighted_sum(a, &[0.5, -2.0]));
        check("weighted_sum of two", &inputs, |tape, v| ops::add(tape, &v[0], &v[1]),
            |a| oracle::weighted_sum::weighted_sum(a, &[1.0, 1.0]));
    }

    #[test]
    fn matmul(rows in size(), inner in size(), out in size(), seed: u64) {
        let inputs = [normal(&[rows, inner], seed), scaled(&[inner, out], seed ^ 1, 0.3)];
        check("matmul", &inputs, |tape, v| ops::matmul(tape, &v[0], &v[1]), |a| {
            let mut transposed = Array::zeros(&[out, inner]);
            for i in 0..inner {
                for o in 0..out {
                    transposed.data[o * inner + i] = a[1].data[i * out + o];
                }
            }
            oracle::linear::linear(&a[0], &transposed, None, OracleActivation::None, None)
        });
    }

    #[test]
    fn conv2d(
        batch in 1usize..4,
        (h, w) in (1usize..8, 1usize..8),
        (inputs, outputs) in (1usize..6, 1usize..6),
        (kernel, stride, padding) in prop_oneof![
            Just((3, 1, 1)), Just((3, 2, 1)), Just((1, 1, 0)), Just((1, 2, 0)), Just((2, 1, 0)),
            Just((5, 3, 4)), Just((2, 3, 1)), Just((4, 2, 1)),
        ],
        seed: u64,
    ) {
        let shape = Convolution { kernel, stride, padding };
        prop_assume!(shape.output(h) > 0 && shape.output(w) > 0);
        let inputs = [
            normal(&[batch, h, w, inputs], seed),
            scaled(&[outputs, kernel * kernel * inputs], seed ^ 1, 0.3),
        ];
        check("conv2d", &inputs, |tape, v| ops::conv2d(tape, &v[0], &v[1], shape),
            |a| oracle::conv2d::conv2d(&a[0], &a[1], kernel, stride, padding));
    }

    #[test]
    fn batch_norm(
        rows in 4usize..20,
        width in 1usize..10,
        (relu, residual, training) in any::<(bool, bool, bool)>(),
        seed: u64,
    ) {
        let inputs = [
            normal(&[rows, width], seed),
            normal(&[width], seed ^ 1),
            normal(&[width], seed ^ 2),
            normal(&[rows, width], seed ^ 3),
        ];
        let inputs = inputs.map(|a| Array::from_f32(&a.shape, &a.to_f32()));
        let mean = Array::from_f32(&[width], &scaled(&[width], seed ^ 4, 0.3).to_f32());
        let mut variance = normal(&[width], seed ^ 5);
        variance.data.iter_mut().for_each(|v| *v = v.exp());
        let variance = Array::from_f32(&[width], &variance.to_f32());
        let reference = |a: &[Array], relu: bool| {
            let of_batch = oracle::batch_norm::moments(&a[0]);
            let moments = match training {
                true => (&of_batch.0[..], &of_batch.1[..]),
                false => (&mean.data[..], &variance.data[..]),
            };
            let residual = residual.then(|| &a[3]);
            oracle::batch_norm::batch_norm(&a[0], &a[1], &a[2], moments, residual, relu)
        };
        // Central differences see nothing of a ReLU only while they stay on one side of it.
        let before = reference(&inputs, false);
        prop_assume!(!relu || before.data.iter().all(|y| y.abs() > 2e-3));
        let used = if residual { 4 } else { 3 };
        check("batch_norm", &inputs[..used], |tape, v| {
            let upload = |a: &Array| tape.backend().upload(&a.shape, &a.to_f32());
            let statistics = if training {
                Statistics::Batch
            } else {
                Statistics::Given(Moments { mean: upload(&mean)?, variance: upload(&variance)? })
            };
            let tail = Tail { residual: v.get(3), relu };
            Ok(ops::batch_norm(tape, &v[0], &v[1], &v[2], &statistics, tail, 1e-5)?.0)
        }, |a| reference(a, relu));
    }

    #[test]
    fn avg_pool(
        batch in 1usize..4,
        (h, w) in (1usize..4, 1usize..4),
        size in 1usize..4,
        channels in size(),
        seed: u64,
    ) {
        let inputs = [normal(&[batch, h * size, w * size, channels], seed)];
        check("avg_pool", &inputs, |tape, v| ops::avg_pool(tape, &v[0], size),
            |a| oracle::avg_pool::avg_pool(&a[0], size));
    }

    #[test]
    fn attention_pool(
        batch in 1usize..4,
        tokens in 1usize..9,
        heads in 1usize..4,
        dim in 1usize..9,
        seed: u64,
    ) {
        let width = heads * dim;
        let inputs = [
            normal(&[batch, width], seed),
            normal(&[batch * tokens, width], seed ^ 1),
            normal(&[batch * tokens, width], seed ^ 2),
        ];
        check_shape("attention_pool", &[batch, tokens, heads, dim], &inputs, |tape, v| {
            ops::attention_pool(tape, &v[0], &v[1], &v[2], heads)
        }, |a| oracle::attention_pool::attention_pool(&a[0], &a[1], &a[2], heads));
    }

    #[test]
    fn prepend_mean(batch in 1usize..4, (h, w) in (1usize..4, 1usize..4), width in size(), seed: u64) {
        let inputs = [normal(&[batch, h, w, width], seed), normal(&[1 + h * w, width], seed ^ 1)];
        check("prepend_mean", &inputs, |tape, v| ops::prepend_mean(tape, &v[0], &v[1]),
            |a| oracle::attention_pool::prepend_mean(&a[0], &a[1]));
    }

    /// f32 values are the same bits everywhere.
    #[test]
    fn images((h, w) in (1usize..9, 1usize..9), batch in 0usize..4, mean in [0f32..1.0, 0f32..1.0, 0f32..1.0],
            std in [0.1f32..1.0, 0.1f32..1.0, 0.1f32..1.0], seed: u64) {
        let mut rng = Philox::new(seed, Purpose::Test, 0, 0);
        let shape = [batch, h, w, 3];
        let pixels: Vec<u8> = (0..batch * h * w * 3).map(|_| rng.below(256) as u8).collect();
        let by = Normalisation { mean, std };
        for tenant in check::tenants_with(&[Op::Images]) {
            let got = tenant.backend.images(&shape, &pixels, &by).expect("images");
            assert_eq!(got.shape(), shape);
            let got = tenant.backend.download(&got).expect("download");
            assert_eq!(got.len(), pixels.len());
            for (i, (got, &pixel)) in got.iter().zip(&pixels).enumerate() {
                let (mean, std) = (f64::from(mean[i % 3]), f64::from(std[i % 3]));
                let want = (f64::from(pixel) / 255.0 - mean) / std;
                let allowed = tenant.tolerances().0 * want.abs().max(1.0);
                assert!((f64::from(*got) - want).abs() <= allowed, "{}: {got}, not {want}", tenant.name());
                let bits = by.value(i % 3, pixel);
                assert!(tenant.low.is_some() || *got == bits, "{}: {got}, not {bits}", tenant.name());
            }
        }
    }

    #[test]
    fn patchify(batch in 1usize..4, grid_h in 1usize..4, grid_w in 1usize..4, p in 1usize..5, seed: u64) {
        let image = normal(&[batch, grid_h * p, grid_w * p, 3], seed);
        // A move of bf16 numbers is exact in any precision.
        let image = coarse(&image);
        for check::Tenant { backend, .. } in check::tenants_with(&[Op::Patchify]) {
            let tape = Tape::new(backend.clone());
            let pixels = backend.upload(&image.shape, &image.to_f32()).expect("upload");
            let patches = ops::patchify(&tape, &pixels, p).expect("patches");
            let want = oracle::patchify::patchify(&image, p);
            assert_eq!(patches.shape(), want.shape);
            assert_eq!(backend.download(&patches).expect("download"), want.to_f32());
        }
    }
}

/// Operands that are bf16 numbers already lose nothing by mixed precision: what is left is the f32
/// rounding of the sums. With an activation the backward pass multiplies numbers that are not bf16.
#[test]
fn linear_in_bf16() {
    let Some(backend) = cpu_bf16("linear layers in bf16") else {
        return;
    };
    for (rows, inner, out) in [(1, 1, 1), (7, 33, 5), (20, 64, 31), (3, 129, 70)] {
        let inputs = [
            coarse(&normal(&[rows, inner], 1)),
            coarse(&scaled(&[out, inner], 2, 0.3)),
            normal(&[out], 3),
            normal(&[rows, out], 4),
        ];
        let none = Activation::None;
        check_on(
            &backend,
            "linear in bf16",
            &inputs,
            |tape, v| ops::linear(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]), none),
            |a| {
                let (bias, residual) = (Some(&a[2]), Some(&a[3]));
                oracle::linear::linear(&a[0], &a[1], bias, OracleActivation::None, residual)
            },
        );
        // An operand that is no bf16 number is rounded to one.
        let third = |x: f32| backend.upload(&[1, 1], &[x]).expect("upload");
        let y = backend.linear(&third(1.0 / 3.0), &third(1.0), None, None, none, false);
        let y = backend.download(&y.expect("linear").y).expect("download");
        assert_eq!(y, [half::bf16::from_f32(1.0 / 3.0).to_f32()]);
    }
}

/// As above, for a convolution.
#[test]
fn conv2d_in_bf16() {
    let Some(backend) = cpu_bf16("convolutions in bf16") else {
        return;
    };
    for (side, channels, outputs, stride) in [(1, 1, 1, 1), (5, 3, 4, 2), (6, 5, 3, 1)] {
        let inputs = [
            coarse(&normal(&[2, side, side, channels], 1)),
            coarse(&scaled(&[outputs, 9 * channels], 2, 0.3)),
        ];
        let shape = Convolution {
            kernel: 3,
            stride,
            padding: 1,
        };
        check_on(
            &backend,
            "conv2d in bf16",
            &inputs,
            |tape, v| ops::conv2d(tape, &v[0], &v[1], shape),
            |a| oracle::conv2d::conv2d(&a[0], &a[1], 3, stride, 1),
        );
    }
}

/// Rows of one element lose it, rows of two go to ±1: gradients that vanish, up to ε times the
/// reciprocal of the deviation, which is kept from 0 here.
#[test]
fn norms_of_the_narrowest_rows() {
    let one = Array::from_f32(&[3, 1], &[0.7, -2.0, 1e3]);
    let two = Array::from_f32(&[3, 2], &[0.7, -2.0, 5.0, 5.5, -1.0, 1.0]);
    for x in [one, two] {
        let width = x.shape[1];
        let inputs = [x, normal(&[width], 1), normal(&[width], 2)];
        check(
            "layer_norm",
            &inputs,
            |tape, v| ops::layer_norm(tape, &v[0], &v[1], &v[2], 1e-5),
            |a| oracle::layer_norm::layer_norm(&a[0], &a[1], &a[2]),
        );
        check(
            "l2_normalize",
            &inputs[..1],
            |tape, v| ops::l2_normalize(tape, &v[0]),
            |a| oracle::l2_normalize::l2_normalize(&a[0]),
        );
    }
}

/// Shapes of many blocks, whose elements central differences could not all visit: by linearity,
/// Σ dx∘x and Σ dw∘w both equal Σ dy∘y.
#[test]
fn convolutions_of_many_blocks() {
    for (side, channels, outputs, stride) in [(70, 9, 10, 1), (71, 5, 3, 2), (9, 130, 70, 1)] {
        let shape = Convolution {
            kernel: 3,
            stride,
            padding: 1,
        };
        let f32s = |a: Array| Array::from_f32(&a.shape, &a.to_f32());
        let x = f32s(normal(&[3, side, side, channels], 1));
        let w = f32s(scaled(&[outputs, 9 * channels], 2, 0.1));
        let want = oracle::conv2d::conv2d(&x, &w, 3, stride, 1);
        let dy = f32s(normal(&want.shape, 3));
        let expected = oracle::dot(&dy.data, &want.data);
        for backend in check::backends(&[Op::Conv2d]) {
            let tape = Tape::new(backend.clone());
            let leaf =
                |a: &Array| tape.leaf(backend.upload(&a.shape, &a.to_f32()).expect("upload"));
            let (xv, wv) = (leaf(&x), leaf(&w));
            let y = ops::conv2d(&tape, &xv, &wv, shape).expect("conv2d");
            let got = Array::from_f32(&want.shape, &backend.download(y.value()).expect("values"));
            assert!(oracle::worst_difference(&got, &want) < tolerance::FORWARD);
            let seed = backend.upload(&dy.shape, &dy.to_f32()).expect("upload");
            let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
            for (var, value) in [(&xv, &x), (&wv, &w)] {
                let grad = backend.download(grads.get(var).expect("gradient"));
                let grad = Array::from_f32(&value.shape, &grad.expect("values"));
                let got = oracle::dot(&grad.data, &value.data);
                let size: f64 = dy
                    .data
                    .iter()
                    .zip(&want.data)
                    .map(|(d, y)| (d * y).abs())
                    .sum();
                assert!(
                    (got - expected).abs() < 1e-5 * size,
                    "{got}, not {expected}"
                );
            }
        }
    }
}

/// The moments of many rows far from zero: a sum of squares would lose the variance altogether.
#[test]
fn moments_far_from_zero() {
    let (rows, width) = (20_000, 7);
    let mut x = normal(&[rows, width], 1);
    for (i, v) in x.data.iter_mut().enumerate() {
        *v = 1000.0 + 0.1 * *v + (i % width) as f64;
    }
    let x = Array::from_f32(&x.shape, &x.to_f32());
    let (mean, variance) = oracle::batch_norm::moments(&x);
    for backend in check::backends(&[Op::BatchNorm]) {
        let uploaded = backend.upload(&x.shape, &x.to_f32()).expect("upload");
        let got = backend.batch_moments(&uploaded).expect("moments");
        for (got, want, allowed) in [(&got.mean, &mean, 1e-6), (&got.variance, &variance, 1e-4)] {
            for (got, want) in backend.download(got).expect("values").iter().zip(want) {
                assert!(
                    (f64::from(*got) - want).abs() < allowed * want,
                    "{got}, not {want}"
                );
            }
        }
    }
}

/// Long sequences go through several query blocks, causal ones with growing keys.
#[test]
fn attention_in_blocks_agrees_with_the_formula() {
    let (lengths, heads, dim) = ([300usize, 5, 513], 1, 4);
    let total: usize = lengths.iter().sum();
    let qkv = normal(&[total, 3 * heads * dim], 5);
    let qkv = Array::from_f32(&qkv.shape, &qkv.to_f32());
    for (causal, backend) in [(false, Cpu::new()), (true, Cpu::new())] {
        let backend: Arc<dyn Backend> = Arc::new(backend);
        let tape = Tape::new(backend.clone());
        let x = tape.leaf(backend.upload(&qkv.shape, &qkv.to_f32()).expect("upload"));
        let segments = Segments::new(backend.as_ref(), lengths).expect("segments");
        let y = ops::attention(&tape, &x, &segments, heads, causal).expect("attention");
        let want = oracle::attention::attention(&qkv, &[0, 300, 305, 818], heads, causal);
        let got = Array::from_f32(&want.shape, &backend.download(y.value()).expect("download"));
        assert!(oracle::worst_difference(&got, &want) < tolerance::FORWARD);
        // One directional derivative of Σ u∘y against a central difference of the f64 formula.
        let (u, direction) = (normal(&want.shape, 6), normal(&qkv.shape, 7));
        let seed = backend.upload(&u.shape, &u.to_f32()).expect("upload");
        let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
        let grad = backend
            .download(grads.get(&x).expect("gradient"))
            .expect("download");
        let got: f64 = grad
            .iter()
            .zip(&direction.data)
            .map(|(g, d)| f64::from(*g) * d)
            .sum();
        let along = |h: f64| {
            let mut moved = qkv.clone();
            for (m, d) in moved.data.iter_mut().zip(&direction.data) {
                *m += h * d;
            }
            let y = oracle::attention::attention(&moved, &[0, 300, 305, 818], heads, causal);
            oracle::dot(&y.data, &u.data)
        };
        let want = (along(1e-4) - along(-1e-4)) / 2e-4;
        assert!(
            (got - want).abs() < 1e-3 * want.abs().max(1.0),
            "{got}, not {want}"
        );
    }
}

/// Recomputation gives the same bits as keeping everything.
#[test]
fn checkpointed_parts_give_the_same_bits() {
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let data = |shape: &[usize], seed| {
        backend
            .upload(shape, &normal(shape, seed).to_f32())
            .expect("upload")
    };
    let run = |checkpoint: bool| {
        let tape = Tape::new(backend.clone());
        let (x, w) = (tape.leaf(data(&[7, 12], 1)), tape.leaf(data(&[12, 12], 2)));
        let (gamma, beta) = (tape.leaf(data(&[12], 3)), tape.leaf(data(&[12], 4)));
        let leaves = [x.clone(), w.clone(), gamma.clone(), beta.clone()];
        let part = move |h: Var, w: Var, gamma: Var, beta: Var| {
            move |tape: &Tape| {
                let n = ops::layer_norm(tape, &h, &gamma, &beta, 1e-5)?;
                ops::linear(tape, &n, &w, None, Some(&h), Activation::Gelu)
            }
        };
        let mut h = x;
        for _ in 0..3 {
            let block = part(h.clone(), w.clone(), gamma.clone(), beta.clone());
            h = if checkpoint {
                tape.checkpoint(&[&h], block)
            } else {
                block(&tape)
            }
            .expect("block");
        }
        let grads = tape
            .backward_from(&[(&h, data(&[7, 12], 5))])
            .expect("backward");
        let mut bits = backend.download(h.value()).expect("download");
        for leaf in &leaves {
            bits.extend(
                backend
                    .download(grads.get(leaf).expect("gradient"))
                    .expect("download"),
            );
        }
        bits.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
    };
    assert_eq!(run(true), run(false));
}

/// The bits of the gradients of `vars`.
fn bits(backend: &dyn Backend, grads: &Grads, vars: &[&Var]) -> Vec<u32> {
    let of = |v: &&Var| backend.download(grads.get(v).expect("gradient"));
    let values = vars.iter().flat_map(|v| of(v).expect("download"));
    values.map(f32::to_bits).collect()
}

/// `run` gives the same bits on pools of one, two and five threads.
fn same_for_any_threads(run: impl Fn() -> Vec<u32> + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("pool").install(&run)
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

/// The number of threads changes no bit: blocks are cut by shape alone.
#[test]
fn threads_change_no_bit() {
    same_for_any_threads(|| {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let tape = Tape::new(backend.clone());
        let data = |shape: &[usize], seed| {
            backend
                .upload(shape, &normal(shape, seed).to_f32())
                .expect("upload")
        };
        let x = tape.leaf(data(&[300, 96], 1));
        let w = tape.leaf(data(&[288, 96], 2));
        let b = tape.leaf(data(&[288], 3));
        let qkv = ops::linear(&tape, &x, &w, Some(&b), None, Activation::Gelu).expect("qkv");
        let segments = Segments::new(backend.as_ref(), [100, 1, 199]).expect("segments");
        let y = ops::attention(&tape, &qkv, &segments, 3, true).expect("attention");
        let grads = tape
            .backward_from(&[(&y, data(&[300, 96], 4))])
            .expect("backward");
        bits(&*backend, &grads, &[&x, &w, &b])
    });
}

/// As above, for a convolution and its normalisation.
#[test]
fn threads_change_no_bit_of_a_convolution() {
    same_for_any_threads(|| {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let tape = Tape::new(backend.clone());
        let leaf = |shape: &[usize], seed| {
            let values = normal(shape, seed).to_f32();
            tape.leaf(backend.upload(shape, &values).expect("upload"))
        };
        let (x, w) = (leaf(&[2, 50, 50, 20], 1), leaf(&[24, 180], 2));
        let (gamma, beta) = (leaf(&[24], 3), leaf(&[24], 4));
        let shape = Convolution {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let y = ops::conv2d(&tape, &x, &w, shape).expect("conv2d");
        let tail = Tail {
            residual: None,
            relu: true,
        };
        let batch = Statistics::Batch;
        let (y, _) =
            ops::batch_norm(&tape, &y, &gamma, &beta, &batch, tail, 1e-5).expect("batch_norm");
        let seed = normal(y.shape(), 5).to_f32();
        let seed = backend.upload(y.shape(), &seed).expect("upload");
        let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
        bits(&*backend, &grads, &[&x, &w, &gamma, &beta])
    });
}

/// Shapes that do not fit are refused with both shapes and the operation's name.
#[test]
fn shape_errors_name_the_operation_and_both_shapes() {
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let tape = Tape::new(backend.clone());
    let x = tape.leaf(backend.zeros(&[2, 3]).expect("zeros"));
    let w = tape.leaf(backend.zeros(&[4, 5]).expect("zeros"));
    let error = ops::linear(&tape, &x, &w, None, None, Activation::None).expect_err("refused");
    assert_eq!(error.to_string(), "linear: x [2, 3] against weight [4, 5]");
    let table = tape.leaf(backend.zeros(&[4, 3]).expect("zeros"));
    let bad = index(&tape, &[4]);
    let error = ops::select_rows(&tape, &table, &bad).expect_err("refused");
    assert_eq!(error.to_string(), "select_rows: index 4 outside 0..4");
    let cut = Cut {
        rows: &bad,
        columns: &index(&tape, &[0]),
        row_gate: None,
        column_gate: None,
    };
    let error = ops::submatrix(&tape, &table, cut).expect_err("refused");
    assert_eq!(error.to_string(), "submatrix: index 4 outside 0..4");
    let gated = Cut {
        column_gate: Some(&x),
        ..cut
    };
    let error = ops::submatrix(&tape, &table, gated).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "submatrix: 1 rows with gates None and 1 columns with gates Some([2, 3]) of x [4, 3]"
    );
    let image = tape.leaf(backend.zeros(&[1, 4, 5, 3]).expect("zeros"));
    let shape = Convolution {
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    let error = ops::conv2d(&tape, &image, &w, shape).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "conv2d: x [1, 4, 5, 3] against filters [4, 5] of 3×3, stride 1, padding 1"
    );
    let error = ops::avg_pool(&tape, &image, 2).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "avg_pool: x [1, 4, 5, 3] into tiles of 2×2"
    );
    let one = tape.leaf(backend.zeros(&[1, 3]).expect("zeros"));
    let g = tape.leaf(backend.zeros(&[3]).expect("zeros"));
    let batch = Statistics::Batch;
    let error =
        ops::batch_norm(&tape, &one, &g, &g, &batch, Tail::default(), 1e-5).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "batch_norm: x [1, 3] has one element a channel"
    );
    assert!(
        x.untracked("top_k").is_err(),
        "a tracked variable without backward is an error"
    );
}
