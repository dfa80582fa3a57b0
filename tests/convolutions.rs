//! What convolutional networks are made of, at shapes of many blocks, whose elements central differences could
//! not all visit.

use check::{Tenant, check, coarse};
use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::Op;
use clip_distill::backend::{Convolution, Moments};
use clip_distill::ops::{self, Statistics, Tail};
use oracle::{Array, normal};

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

fn leaf(tape: &Tape, a: &Array) -> Var {
    tape.leaf(
        tape.backend()
            .upload(&a.shape, &a.to_f32())
            .expect("upload"),
    )
}

fn scaled(shape: &[usize], seed: u64, factor: f64) -> Array {
    let mut a = normal(shape, seed);
    a.data.iter_mut().for_each(|v| *v *= factor);
    a
}

/// dx and dw of Σ dy∘y: every product of an input and a weight that is part of an output, once.
fn conv2d_gradients(dy: &Array, x: &Array, w: &Array, shape: Convolution) -> [Array; 2] {
    let ([batch, rows, columns, outputs], [_, height, width, channels]) = (
        <[usize; 4]>::try_from(&dy.shape[..]).expect("four sides"),
        <[usize; 4]>::try_from(&x.shape[..]).expect("four sides"),
    );
    let (mut dx, mut dw) = (Array::zeros(&x.shape), Array::zeros(&w.shape));
    let inside = |at: usize, tap: usize, side: usize| {
        let place = (at * shape.stride + tap).checked_sub(shape.padding)?;
        (place < side).then_some(place)
    };
    for (pixel, dy) in dy.data.chunks_exact(outputs).enumerate() {
        let (b, i, j) = (
            pixel / columns / rows,
            pixel / columns % rows,
            pixel % columns,
        );
        assert!(b < batch);
        for tap in 0..shape.kernel * shape.kernel {
            let y_at = inside(i, tap / shape.kernel, height);
            let x_at = inside(j, tap % shape.kernel, width);
            let (Some(y_at), Some(x_at)) = (y_at, x_at) else {
                continue;
            };
            let input = ((b * height + y_at) * width + x_at) * channels;
            for (o, dy) in dy.iter().enumerate() {
                let filter = o * w.width() + tap * channels;
                for c in 0..channels {
                    dx.data[input + c] += dy * w.data[filter + c];
                    dw.data[filter + c] += dy * x.data[input + c];
                }
            }
        }
    }
    [dx, dw]
}

/// (batch, height, width), (inputs, outputs), (kernel, stride, padding).
type Case = ((usize, usize, usize), (usize, usize), (usize, usize, usize));

/// Channels that are whole units of 16 bytes and such that are not, more of them than a block has columns, sums of
/// many steps, fewer pixels than a block has rows and several blocks' worth, strides that leave pixels without a
/// tap.
const CASES: [Case; 8] = [
    ((1, 40, 40), (3, 32), (3, 2, 1)),
    ((3, 70, 71), (9, 10), (3, 1, 1)),
    ((1, 9, 8), (64, 64), (3, 1, 1)),
    ((2, 13, 11), (16, 72), (3, 2, 1)),
    ((2, 9, 9), (130, 70), (3, 1, 1)),
    ((2, 17, 10), (24, 130), (5, 3, 2)),
    ((1, 20, 23), (8, 8), (2, 3, 0)),
    ((5, 7, 7), (48, 40), (1, 2, 0)),
];

#[test]
fn convolutions() {
    for ((batch, height, width), (inputs, outputs), (kernel, stride, padding)) in CASES {
        let shape = Convolution {
            kernel,
            stride,
            padding,
        };
        let x = coarse(&normal(&[batch, height, width, inputs], 1));
        let w = coarse(&scaled(&[outputs, kernel * kernel * inputs], 2, 0.1));
        let want = oracle::conv2d::conv2d(&x, &w, kernel, stride, padding);
        let dy = coarse(&normal(&want.shape, 3));
        let gradients = conv2d_gradients(&dy, &x, &w, shape);
        for tenant in check::tenants_with(&[Op::Conv2d]) {
            let (forward, gradient) = tenant.tolerances();
            let backend = &tenant.backend;
            let tape = Tape::new(backend.clone());
            let vars = [leaf(&tape, &x), leaf(&tape, &w)];
            let compare = |what: &str,
                           got: &clip_distill::tensor::Tensor,
                           want: &Array,
                           allowed| {
                let got = Array::from_f32(&want.shape, &backend.download(got).expect("values"));
                let error = oracle::worst_difference(&got, want);
                assert!(
                    error <= allowed,
                    "{what} of {:?} by {:?}, {shape:?}, on {}: off by {error:e}, allowed {allowed:e}",
                    x.shape,
                    w.shape,
                    tenant.name()
                );
            };
            let y = ops::conv2d(&tape, &vars[0], &vars[1], shape).expect("conv2d");
            compare("value", y.value(), &want, forward);
            let seed = backend.upload(&dy.shape, &dy.to_f32()).expect("upload");
            let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
            for ((var, want), what) in vars.iter().zip(&gradients).zip(["dx", "dw"]) {
                compare(what, grads.get(var).expect("gradient"), want, gradient);
            }
        }
    }
}

/// The second takes what the first made, in the type that is kept between operations, and gives it back its
/// gradient; neither has whole units of channels.
#[test]
fn two_convolutions() {
    let inputs = [
        normal(&[2, 6, 5, 3], 1),
        scaled(&[5, 27], 2, 0.2),
        scaled(&[6, 45], 3, 0.2),
    ];
    let shape = Convolution {
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    check(
        "conv2d twice",
        &inputs,
        |tape, v| ops::conv2d(tape, &ops::conv2d(tape, &v[0], &v[1], shape)?, &v[2], shape),
        |a| {
            oracle::conv2d::conv2d(
                &oracle::conv2d::conv2d(&a[0], &a[1], 3, 1, 1),
                &a[2],
                3,
                1,
                1,
            )
        },
    );
}

/// Each channel on its own: its directional derivatives by x, γ, β and r against central differences of the
/// formula, whose channels do not meet.
fn batch_norm_of(tenant: &Tenant, (rows, width): (usize, usize), relu: bool, residual: bool) {
    let [x, direction] = [1, 2].map(|seed| coarse(&normal(&[rows, width], seed)));
    let r = coarse(&normal(&[rows, width], 3));
    let [gamma, beta] = [4, 5].map(|seed| coarse(&normal(&[width], seed)));
    let inputs = [x, gamma, beta, r];
    let directions = [
        direction,
        normal(&[width], 6),
        normal(&[width], 7),
        normal(&[rows, width], 8),
    ];
    let reference = |a: &[Array; 4], relu: bool| {
        let (mean, variance) = oracle::batch_norm::moments(&a[0]);
        let r = residual.then_some(&a[3]);
        oracle::batch_norm::batch_norm(&a[0], &a[1], &a[2], (&mean, &variance), r, relu)
    };
    let want = reference(&inputs, relu);
    let upstream = coarse(&normal(&want.shape, 9));
    // A difference would see whatever crosses the ReLU's edge: the derivative is that of what is on its way there,
    // of which only the positive counts.
    let mut passed = upstream.clone();
    for (u, y) in passed.data.iter_mut().zip(&want.data) {
        *u *= if relu && *y <= 0.0 { 0.0 } else { 1.0 };
    }
    let by_channel = |a: &Array, b: &Array| {
        let mut sums = vec![(0.0, 0.0); width];
        for (i, (a, b)) in a.data.iter().zip(&b.data).enumerate() {
            sums[i % width].0 += a * b;
            sums[i % width].1 += (a * b).abs();
        }
        sums
    };

    let backend = &tenant.backend;
    let tape = Tape::new(backend.clone());
    let vars = inputs.each_ref().map(|a| leaf(&tape, a));
    let tail = Tail {
        residual: residual.then_some(&vars[3]),
        relu,
    };
    let (y, moments) = ops::batch_norm(
        &tape,
        &vars[0],
        &vars[1],
        &vars[2],
        &Statistics::Batch,
        tail,
        1e-5,
    )
    .expect("batch_norm");
    let what = format!("{rows} × {width} on {}", tenant.name());
    let values = |t: &clip_distill::tensor::Tensor| backend.download(t).expect("values");
    let Moments { mean, variance } = &moments;
    let expected = oracle::batch_norm::moments(&inputs[0]);
    for (got, want) in [(mean, &expected.0), (variance, &expected.1)] {
        for (got, want) in values(got).iter().zip(want) {
            let error = (f64::from(*got) - want).abs();
            assert!(error < 1e-6, "moments of {what}: {got}, not {want}");
        }
    }
    let got = Array::from_f32(&want.shape, &values(y.value()));
    let error = oracle::worst_difference(&got, &want);
    assert!(error <= tenant.tolerances().0, "{what}: off by {error:e}");

    let seed = backend
        .upload(&want.shape, &upstream.to_f32())
        .expect("upload");
    let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
    let used = if residual { 4 } else { 3 };
    for (k, direction) in directions.iter().enumerate().take(used) {
        let along = |h: f64| {
            let mut moved = inputs.clone();
            for (m, d) in moved[k].data.iter_mut().zip(&direction.data) {
                *m += h * d;
            }
            by_channel(&reference(&moved, false), &passed)
        };
        let (after, before) = (along(1e-4), along(-1e-4));
        let gradient = values(grads.get(&vars[k]).expect("gradient"));
        let gradient = Array::from_f32(&direction.shape, &gradient);
        for (c, (got, size)) in by_channel(&gradient, direction).into_iter().enumerate() {
            let want = (after[c].0 - before[c].0) / 2e-4;
            let allowed = tolerance::directional(tenant.low) * size.max(1.0);
            assert!(
                (got - want).abs() < allowed,
                "{what}: gradient {k} of channel {c} along a direction is {got}, not {want}; terms {size}"
            );
        }
    }
}

/// Fewer columns than a block has and several blocks' worth, whole units of 16 bytes and not, one chunk of rows
/// and many.
#[test]
fn batch_norms() {
    for tenant in check::tenants_with(&[Op::BatchNorm]) {
        for (relu, residual) in [(true, true), (true, false), (false, true)] {
            for shape in [(3000, 64), (40, 520), (1500, 9), (700, 31), (2, 1)] {
                batch_norm_of(&tenant, shape, relu, residual);
            }
        }
    }
}

/// Pooling after a normalisation, as CLIP's ResNet has it: the gradient comes in the type that is kept.
#[test]
fn pooled_images() {
    for (side, channels) in [(4, 8), (6, 17), (2, 40)] {
        let inputs = [
            normal(&[2, side, side, channels], 1),
            scaled(&[3, 9 * channels], 2, 0.1),
        ];
        let shape = Convolution {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        check(
            "avg_pool before conv2d",
            &inputs,
            |tape, v| {
                let pooled = ops::avg_pool(tape, &v[0], 2)?;
                ops::conv2d(tape, &pooled, &v[1], shape)
            },
            |a| oracle::conv2d::conv2d(&oracle::avg_pool::avg_pool(&a[0], 2), &a[1], 3, 1, 1),
        );
    }
}

/// Splits of long sums are added in their order, whichever block is done first.
#[test]
fn a_second_run_gives_the_same_bits() {
    let shape = Convolution {
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    let inputs = [
        normal(&[2, 30, 30, 8], 1),
        scaled(&[24, 72], 2, 0.2),
        normal(&[24], 3),
        normal(&[24], 4),
    ];
    for tenant in check::tenants_with(&[Op::Conv2d, Op::BatchNorm]) {
        let backend = &tenant.backend;
        let once = || {
            let tape = Tape::new(backend.clone());
            let vars = inputs.each_ref().map(|a| leaf(&tape, a));
            let tail = Tail {
                residual: None,
                relu: true,
            };
            let batch = Statistics::Batch;
            let y = ops::conv2d(&tape, &vars[0], &vars[1], shape).expect("conv2d");
            let (y, _) = ops::batch_norm(&tape, &y, &vars[2], &vars[3], &batch, tail, 1e-5)
                .expect("batch_norm");
            let seed = normal(y.shape(), 5).to_f32();
            let seed = backend.upload(y.shape(), &seed).expect("upload");
            let grads = tape.backward_from(&[(&y, seed)]).expect("backward");
            let of = |v: &Var| backend.download(grads.get(v).expect("gradient"));
            let values = vars.iter().flat_map(|v| of(v).expect("values"));
            values.map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(once(), once(), "{}", tenant.name());
    }
}
