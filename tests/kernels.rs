//! Kernels that no operation on a tape shows, and large shapes, on every backend at hand: wide rows, many rows,
//! many chunks, where the reference is the CPU, which the oracle holds to account at small shapes.

use check::{Tenant, coarse, tenants_with};
use clip_distill::autodiff::{Result, Tape, Var};
use clip_distill::backend::Op;
use clip_distill::backend::{
    Activation, AdamWStep, AdamWTensor, Backend, Clipping, Error, FIRST_COUNTS, LossScaleState,
    LossScaling, ScaledStep, Segments, cpu::Cpu,
};
use clip_distill::backend::{AttentionBackward, LinearBackward};
use clip_distill::ops;
use clip_distill::tensor::{DType, Tensor};
use oracle::{Array, normal};
use std::sync::Arc;

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

fn upload(backend: &dyn Backend, a: &Array) -> Tensor {
    backend.upload(&a.shape, &a.to_f32()).expect("upload")
}

/// The value and every gradient of `op` on one backend.
fn run(
    backend: &Arc<dyn Backend>,
    inputs: &[Array],
    op: &dyn Fn(&Tape, &[Var]) -> Result<Var>,
) -> Vec<Vec<f32>> {
    let tape = Tape::new(backend.clone());
    let vars: Vec<Var> = inputs
        .iter()
        .map(|a| tape.leaf(upload(&**backend, a)))
        .collect();
    let out = op(&tape, &vars).expect("forward");
    let seed = upload(&**backend, &coarse(&normal(out.shape(), 77)));
    let grads = tape.backward_from(&[(&out, seed)]).expect("backward");
    let tensors = std::iter::once(out.value()).chain(vars.iter().map(|v| {
        let grad = grads.get(v);
        grad.expect("a gradient")
    }));
    tensors
        .map(|t| backend.download(t).expect("download"))
        .collect()
}

/// Value and gradients of `op` on every backend that has `kernel` are the CPU's, relative to each tensor's largest
/// entry: sums of thousands of terms leave their rounding in small ones.
fn agree(kernel: &str, shapes: &[&[usize]], op: impl Fn(&Tape, &[Var]) -> Result<Var>) {
    agree_in_parts(kernel, shapes, None, op);
}

/// As [`agree`], but relative to the largest entry of each row, where `rows` are the rows' widths in the value and
/// in the gradients: for rows of very different size.
fn agree_in_parts(
    kernel: &str,
    shapes: &[&[usize]],
    rows: Option<&[usize]>,
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) {
    let inputs: Vec<Array> = (1..)
        .zip(shapes)
        .map(|(seed, shape)| coarse(&normal(shape, seed)))
        .collect();
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    let want = run(&cpu, &inputs, &op);
    for tenant in tenants_with(&[Op::named(kernel).expect("an operation")]) {
        let allowed = tenant.tolerances().1 as f32;
        let got = run(&tenant.backend, &inputs, &op);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let (part, least) = rows.map_or((want.len(), 1.0), |rows| (rows[i], 0.0));
            for (row, (got, want)) in got.chunks(part).zip(want.chunks(part)).enumerate() {
                let largest = want.iter().fold(least, |m: f32, v| m.max(v.abs()));
                for (at, (got, want)) in got.iter().zip(want).enumerate() {
                    assert!(
                        (got - want).abs() <= allowed * largest,
                        "{kernel} {shapes:?} on {}: tensor {i} at {row}, {at}: {got}, not {want}",
                        tenant.name()
                    );
                }
            }
        }
    }
}

/// Rows as wide as each instance of the kernel takes, whole vectors and not; rows in more than one round.
#[test]
fn layer_norm_of_wide_rows() {
    for (rows, width) in [
        (600, 24),
        (9, 512),
        (9, 520),
        (17, 1021),
        (3, 1024),
        (3, 1032),
        (2, 1033),
        (600, 1040),
        (2, 8192),
    ] {
        agree(
            "layer_norm",
            &[&[rows, width], &[width], &[width]],
            |tape, v| ops::layer_norm(tape, &v[0], &v[1], &v[2], 1e-5),
        );
    }
}

/// Many chunks of rows and several tiles of columns in the bias's sums, whole vectors and not.
#[test]
fn linear_of_many_rows() {
    for (rows, inner, out) in [(1031, 16, 264), (519, 24, 261)] {
        for act in [Activation::None, Activation::Gelu, Activation::QuickGelu] {
            let shapes: [&[usize]; 4] = [&[rows, inner], &[out, inner], &[out], &[rows, out]];
            agree("linear", &shapes, |tape, v| {
                ops::linear(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]), act)
            });
        }
    }
}

/// Several tiles of columns; a row of a table named hundreds of times, and most never.
#[test]
fn token_moves_of_wide_rows() {
    for width in [264, 301] {
        let index = |tape: &Tape, n: usize, of: &dyn Fn(usize) -> usize| {
            let ids: Vec<i32> = (0..n).map(|r| of(r) as i32).collect();
            tape.backend().upload_i32(&[n], &ids).expect("upload")
        };
        agree("embedding", &[&[500, width], &[7, width]], |tape, v| {
            let ids = index(tape, 300, &|r| if r % 3 == 0 { 499 } else { r * r % 97 });
            ops::embedding(tape, &v[0], &v[1], &ids, &index(tape, 300, &|r| r % 7))
        });
        agree("select_rows", &[&[90, width]], |tape, v| {
            ops::select_rows(tape, &v[0], &index(tape, 70, &|r| r * r % 90))
        });
        // Many rows, so that the columns' factors gather in several chunks.
        agree(
            "submatrix",
            &[&[900, width], &[700], &[width - 3]],
            |tape, v| {
                let rows = index(tape, 700, &|r| (r * 7 + 5) % 900);
                let columns = index(tape, width - 3, &|c| c + 2);
                let cut = ops::Cut {
                    rows: &rows,
                    columns: &columns,
                    row_gate: Some(&v[1]),
                    column_gate: Some(&v[2]),
                };
                ops::submatrix(tape, &v[0], cut)
            },
        );
        let shapes: [&[usize]; 3] = [&[80 * 5, width], &[width], &[6, width]];
        agree("prepend_class", &shapes, |tape, v| {
            ops::prepend_class(tape, &v[0], &v[1], &v[2])
        });
        agree(
            "prepend_mean",
            &[&[40, 3, 5, width], &[16, width]],
            |tape, v| ops::prepend_mean(tape, &v[0], &v[1]),
        );
        agree("l2_normalize", &[&[33, width]], |tape, v| {
            ops::l2_normalize(tape, &v[0])
        });
    }
}

/// More than a launch has blocks.
#[test]
fn scatter_of_many_rows() {
    agree("select_rows", &[&[1500, 9]], |tape, v| {
        let index: Vec<i32> = (0..1400).map(|r| r * 7 % 1500).collect();
        let index = tape.backend().upload_i32(&[1400], &index)?;
        ops::select_rows(tape, &v[0], &index)
    });
}

/// More terms than a launch takes.
#[test]
fn weighted_sum_of_many_terms() {
    let shape: &[usize] = &[3, 7];
    agree("weighted_sum", &[shape; 19], |tape, v| {
        let terms: Vec<(&Var, f32)> = v.iter().zip((1..).map(|k| 1.0 / k as f32)).collect();
        ops::weighted_sum(tape, &terms)
    });
}

/// Relative to max(1, expected).
fn assert_near(what: &str, got: &[f32], want: &[f64], allowed: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / want.abs().max(1.0);
        assert!(error <= allowed, "{what} at {at}: {got}, not {want}");
    }
}

/// Two steps over tensors of one element, of a chunk, and of several: the second's gradients are clipped to half
/// of their norm, which is not theirs here but a number on the device.
#[test]
fn adamw_of_many_sizes() {
    let sizes = [1usize, 5, 4096, 4097, 12_290];
    let decay = |k: usize| if k.is_multiple_of(2) { 0.2 } else { 0.0 };
    for Tenant { backend, .. } in tenants_with(&[Op::AdamW]) {
        let tensors = |seed: u64| -> Vec<Tensor> {
            let arrays = sizes.iter().map(|&n| normal(&[n], seed + n as u64));
            arrays.map(|a| upload(&*backend, &a)).collect()
        };
        let zeros = || -> Vec<Tensor> {
            let zeros = sizes.iter().map(|&n| backend.zeros(&[n]));
            zeros.collect::<std::result::Result<_, _>>().expect("zeros")
        };
        let (mut params, mut m, mut v) = (tensors(1), zeros(), zeros());
        for number in 1..=2 {
            let grads = tensors(100 * number);
            let moments = m.iter_mut().zip(&mut v);
            let mut tensors: Vec<AdamWTensor> = params
                .iter_mut()
                .zip(&grads)
                .zip(moments)
                .enumerate()
                .map(|(k, ((param, grad), (m, v)))| AdamWTensor {
                    param,
                    grad,
                    m,
                    v,
                    weight_decay: decay(k),
                })
                .collect();
            // 7 stays below 8; of 16, half is left.
            let norm = backend.upload(&[1], &[[7.0, 16.0][number as usize - 1]]);
            let clip = Clipping {
                norm: &norm.expect("norm"),
                max: 8.0,
            };
            let step = AdamWStep {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
                step: number,
                clip: Some(clip),
                scaled: None,
            };
            backend.adamw(&mut tensors, step).expect("adamw");
            let many = backend.zeros(&[2]).expect("zeros");
            let clip = Some(Clipping {
                norm: &many,
                ..clip
            });
            let misshapen = backend.adamw(&mut tensors, AdamWStep { clip, ..step });
            assert!(
                matches!(misshapen, Err(Error::Shape { .. })),
                "{misshapen:?}"
            );
        }
        for (k, &n) in sizes.iter().enumerate() {
            let values = |seed: u64| {
                let drawn = normal(&[n], seed + n as u64);
                Array::from_f32(&drawn.shape, &drawn.to_f32())
            };
            let (mut want, mut moments) = (values(1), oracle::adamw::Moments::zeros(&[n]));
            let options = oracle::adamw::AdamW {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
                weight_decay: decay(k).into(),
            };
            for number in 1..=2 {
                let mut grad = values(100 * number);
                let kept = [1.0, 8.0 / (16.0 + 1e-6)][number as usize - 1];
                grad.data.iter_mut().for_each(|g| *g *= kept);
                oracle::adamw::step(&mut want, &mut moments, &grad, number as i32, &options);
            }
            let got = backend.download(&params[k]).expect("download");
            assert_near(
                &format!("{} of {n}", backend.name()),
                &got,
                &want.data,
                1e-6,
            );
        }
    }
}

/// A product after a step reads the parameter that the step wrote, also where it reads a copy in bf16.
#[test]
fn products_see_what_the_optimiser_wrote() {
    for tenant in tenants_with(&[Op::AdamW, Op::Linear]) {
        let backend = &*tenant.backend;
        let mut w = upload(backend, &normal(&[4, 8], 1));
        let mut identity = Array::zeros(&[8, 8]);
        (0..8).for_each(|i| identity.data[9 * i] = 1.0);
        let identity = upload(backend, &identity);
        let transposed = |w: &Tensor| {
            let y = backend.linear(&identity, w, None, None, Activation::None, false);
            backend.download(&y.expect("linear").y).expect("download")
        };
        let expect = |w: &Tensor| {
            let values = backend.download(w).expect("download");
            let rounded = |x: f32| match tenant.low {
                Some(DType::F16) => half::f16::from_f32(x).to_f32(),
                Some(_) => half::bf16::from_f32(x).to_f32(),
                None => x,
            };
            let at = |i: usize| rounded(values[i % 4 * 8 + i / 4]);
            (0..32).map(at).collect::<Vec<f32>>()
        };
        assert_eq!(transposed(&w), expect(&w));
        let (grad, mut m, mut v) = (
            upload(backend, &normal(&[4, 8], 2)),
            backend.zeros(&[4, 8]).expect("zeros"),
            backend.zeros(&[4, 8]).expect("zeros"),
        );
        let before = transposed(&w);
        let step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            step: 1,
            clip: None,
            scaled: None,
        };
        let mut tensors = [AdamWTensor {
            param: &mut w,
            grad: &grad,
            m: &mut m,
            v: &mut v,
            weight_decay: 0.0,
        }];
        backend.adamw(&mut tensors, step).expect("adamw");
        assert_ne!(transposed(&w), before);
        assert_eq!(transposed(&w), expect(&w));
        backend.clamp(&mut w, -0.5, 0.25).expect("clamp");
        assert!(transposed(&w).iter().all(|x| (-0.5..=0.25).contains(x)));
        assert_eq!(transposed(&w), expect(&w));
    }
}

#[test]
fn grad_norm_of_many_sizes() {
    for Tenant { backend, .. } in tenants_with(&[Op::GradNorm]) {
        let arrays = [1usize, 3, 4096, 4097, 9001].map(|n| normal(&[n], n as u64));
        let tensors = arrays.each_ref().map(|a| upload(&*backend, a));
        let norm = |grads: &[&Tensor]| {
            let norm = backend.grad_norm(grads).expect("norm");
            f64::from(backend.download(&norm).expect("download")[0])
        };
        let got = norm(&tensors.each_ref());
        let squares = arrays.iter().flat_map(Array::to_f32);
        let want = squares.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        assert!((got - want).abs() < 1e-6 * want, "{got}, not {want}");
        assert_eq!(norm(&[]), 0.0);
    }
}

/// Sums, scalings and squared differences of the losses, which stay in f32 in any precision.
#[test]
fn scalars_of_losses() {
    for Tenant { backend, .. } in tenants_with(&[Op::Mse]) {
        scalars(&*backend);
    }
}

fn scalars(backend: &dyn Backend) {
    for n in [1usize, 7, 4096, 10_001] {
        let (x, y) = (normal(&[n], 1), normal(&[n], 2));
        let (x, y) = (x.to_f32(), y.to_f32());
        let on = |x: &[f32]| backend.upload(&[x.len()], x).expect("upload");
        let (xt, yt) = (on(&x), on(&y));
        let values = |t: &Tensor| backend.download(t).expect("download");
        let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (xd, yd) = (double(&x), double(&y));

        let sum = backend.sum(&xt, 0.25).expect("sum");
        assert_near("sum", &values(&sum), &[xd.iter().sum::<f64>() * 0.25], 1e-6);
        let scaled = backend
            .scale_by(&on(&[1.5]), 2.0, Some(&xt), n)
            .expect("scale_by");
        let want: Vec<f64> = xd.iter().map(|x| 3.0 * x).collect();
        assert_near("scale_by", &values(&scaled), &want, 1e-6);
        let ones = backend
            .scale_by(&on(&[1.5]), 2.0, None, n)
            .expect("scale_by");
        assert_near("scale_by", &values(&ones), &vec![3.0; n], 1e-6);

        let difference: Vec<f64> = xd.iter().zip(&yd).map(|(x, y)| x - y).collect();
        let mse = backend.mse(&xt, &yt).expect("mse");
        let want = difference.iter().map(|d| d * d).sum::<f64>() / n as f64;
        assert_near("mse", &values(&mse), &[want], 1e-6);
        let mut slot = Some(on(&x));
        let dy = on(&[0.5]);
        backend
            .mse_backward(&dy, &xt, &yt, Some(&mut slot))
            .expect("mse");
        let want = difference.iter().zip(&xd).map(|(d, x)| x + d / n as f64);
        let want: Vec<f64> = want.collect();
        assert_near(
            "mse_backward",
            &values(&slot.expect("a gradient")),
            &want,
            1e-6,
        );
    }
}

/// A gradient that is shared with a value still alive, and one of another element type, are added to without
/// changing anything else.
#[test]
fn gradients_meet() {
    for tenant in tenants_with(&[Op::Linear, Op::L2Normalize]) {
        let backend = &*tenant.backend;
        let x = coarse(&normal(&[5, 9], 1));
        let (kept, w) = (
            upload(backend, &x),
            upload(backend, &coarse(&normal(&[3, 9], 2))),
        );
        // In bf16 the product's gradient is bf16, the shared one f32.
        let mut slot = Some(kept.clone());
        let dy = upload(backend, &coarse(&normal(&[5, 3], 3)));
        let (none, slots) = (Activation::None, Some(&mut slot));
        let done = backend.linear_backward(
            LinearBackward {
                dy: &dy,
                x: &kept,
                w: &w,
                pre: None,
                act: none,
            },
            slots,
            None,
            None,
        );
        done.expect("linear_backward");
        assert_eq!(backend.download(&kept).expect("download"), x.to_f32());
        let mut alone = None;
        let done = backend.linear_backward(
            LinearBackward {
                dy: &dy,
                x: &kept,
                w: &w,
                pre: None,
                act: none,
            },
            Some(&mut alone),
            None,
            None,
        );
        done.expect("linear_backward");
        let alone = backend
            .download(&alone.expect("a gradient"))
            .expect("download");
        let want: Vec<f64> = alone
            .iter()
            .zip(&x.data)
            .map(|(a, x)| f64::from(*a) + x)
            .collect();
        let got = backend
            .download(&slot.expect("a gradient"))
            .expect("download");
        assert_near("sum", &got, &want, 1e-6);
    }
}

/// Hidden values that are computed again during backward are those of the forward pass.
#[test]
fn an_activation_is_made_again_to_the_bit() {
    for tenant in tenants_with(&[Op::Linear]) {
        let backend = &*tenant.backend;
        for (rows, out) in [(1, 1), (37, 51), (130, 264)] {
            let [x, w, b] = [[rows, 19], [out, 19], [1, out]].map(|shape| normal(&shape, 1));
            let (x, w, b) = (
                upload(backend, &x),
                upload(backend, &w),
                upload(backend, &b),
            );
            let b = b.reshaped(&[out]).expect("the same elements");
            for act in [Activation::Gelu, Activation::QuickGelu] {
                let there = backend.linear(&x, &w, Some(&b), None, act, true);
                let there = there.expect("linear");
                let again = backend.activate(&there.pre.expect("kept"), act);
                let read = |t: &Tensor| backend.download(t).expect("download");
                assert_eq!(
                    read(&again.expect("activate")),
                    read(&there.y),
                    "{}",
                    tenant.name()
                );
            }
        }
    }
}

/// The same bits, whatever ran before.
#[test]
fn a_second_run_gives_the_same_bits() {
    let inputs = [normal(&[300, 40], 1), normal(&[40], 2), normal(&[40], 3)];
    for tenant in tenants_with(&[Op::LayerNorm]) {
        let once = || {
            run(&tenant.backend, &inputs, &|tape, v| {
                ops::layer_norm(tape, &v[0], &v[1], &v[2], 1e-5)
            })
        };
        let bits = |x: Vec<Vec<f32>>| x.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(once()), bits(once()), "{}", tenant.name());
    }
}

/// Packed segments at the edges of blocks (16, 32 and 64 rows) and of widths (32, 64 and 128 columns), whole
/// vectors and not; more segments than a search takes at a time.
#[test]
fn attention_at_the_edges_of_blocks() {
    let ones = [1; 70];
    let cases: [(&[usize], usize, usize); 11] = [
        (&[1, 63, 64, 65], 2, 64),
        (&[197, 15, 16, 17], 1, 64),
        (&[130, 0, 31], 2, 32),
        (&[33, 97], 2, 8),
        (&[129, 1], 1, 13),
        (&[65, 64], 1, 33),
        (&[70, 97, 1], 1, 128),
        (&[100], 1, 72),
        (&[66, 3], 1, 101),
        (&[1024], 1, 32),
        (&ones, 3, 16),
    ];
    for (lengths, heads, dim) in cases {
        let total = lengths.iter().sum::<usize>();
        for causal in [false, true] {
            let width = heads * dim;
            let (shapes, rows): ([&[usize]; 1], _) = ([&[total, 3 * width]], [width, 3 * width]);
            agree_in_parts("attention", &shapes, Some(&rows), |tape, v| {
                let segments = Segments::new(tape.backend(), lengths.iter().copied())?;
                ops::attention(tape, &v[0], &segments, heads, causal)
            });
        }
    }
}

/// Heads as wide as so many lanes hold, more tokens than a block takes at a time, heads of more columns than a warp
/// holds.
#[test]
fn attention_pool_of_many_tokens() {
    for (batch, tokens, heads, dim) in [
        (2, 50, 3, 64),
        (1, 150, 2, 24),
        (2, 7, 1, 130),
        (2, 9, 1, 600),
        (1, 300, 2, 3),
    ] {
        let width = heads * dim;
        let keys: &[usize] = &[batch * tokens, width];
        agree(
            "attention_pool",
            &[&[batch, width], keys, keys],
            |tape, v| ops::attention_pool(tape, &v[0], &v[1], &v[2], heads),
        );
    }
}

/// Logits of hundreds: softmaxes of one key, whose sums would overflow or vanish without their maximum.
#[test]
fn attention_of_extreme_logits() {
    for tenant in tenants_with(&[Op::Attention]) {
        let backend = &*tenant.backend;
        let (lengths, dim) = ([3usize, 70], 8);
        let total = lengths.iter().sum::<usize>();
        let mut qkv = coarse(&normal(&[total, 3 * dim], 3));
        for row in qkv.data.chunks_exact_mut(3 * dim) {
            row[..2 * dim].iter_mut().for_each(|x| *x *= 16.0);
        }
        let want = oracle::attention::attention(&qkv, &[0, 3, total], 1, false);
        let segments = Segments::new(backend, lengths).expect("segments");
        let x = upload(backend, &qkv);
        let (out, lse) = backend.attention(&x, &segments, 1, false).expect("forward");
        let allowed = match tenant.low {
            // Logits of 500 are right to 3e-5, and so are probabilities.
            None => 1e-4,
            Some(_) => tenant.tolerances().0,
        };
        let name = tenant.name();
        let got = backend.download(&out).expect("download");
        assert_near(&name, &got, &want.data, allowed);
        let mut slot = None;
        let backward = backend.attention_backward(
            AttentionBackward {
                dout: &upload(backend, &coarse(&normal(&[total, dim], 4))),
                qkv: &x,
                out: &out,
                lse: &lse,
                segments: &segments,
                heads: 1,
                causal: false,
            },
            Some(&mut slot),
        );
        backward.expect("backward");
        let grad = backend
            .download(&slot.expect("a gradient"))
            .expect("download");
        assert!(grad.iter().all(|g| g.is_finite()), "{name}");
    }
}

/// Wider heads than shared memory is laid out for are refused, and not run.
#[test]
fn heads_too_wide_are_refused() {
    for tenant in tenants_with(&[Op::Attention]) {
        let backend = &*tenant.backend;
        if backend.supports(Op::Attention, DType::F32, &[2, 1, 129]) {
            continue;
        }
        let segments = Segments::new(backend, [2]).expect("segments");
        let x = backend.zeros(&[2, 3 * 129]).expect("zeros");
        let error = backend
            .attention(&x, &segments, 1, false)
            .expect_err("refused");
        let unsupported = matches!(error, Error::Unsupported { .. });
        assert!(
            unsupported && error.to_string().contains("at most 128 columns"),
            "{error}"
        );
    }
}

/// Twelve steps of one parameter under dynamic loss scaling, some of whose gradients are infinite or NaN, against
/// `torch.amp.GradScaler` and AdamW written out in f64.
#[test]
fn scaled_steps_are_those_of_a_grad_scaler() {
    let (lr, beta1, beta2, eps, decay, max_norm) = (0.1, 0.9, 0.98, 1e-6, 0.2, 0.5);
    let scaling = LossScaling {
        start: 1024.0,
        growth: 2.0,
        backoff: 0.5,
        interval: 3,
    };
    // Unscaled, of the first element; the second is -2 of it.
    let grads = [
        0.3,
        f32::INFINITY,
        0.1,
        -0.2,
        0.7,
        f32::NAN,
        1e-7,
        0.01,
        -0.4,
        0.2,
        0.3,
        0.1,
    ];
    for tenant in tenants_with(&[Op::AdamW, Op::LossScale]) {
        let (backend, name) = (&*tenant.backend, tenant.name());
        let values = |t: &Tensor| backend.download(t).expect("download");
        let of = |values: &[f32]| backend.upload(&[values.len()], values).expect("upload");
        let mut state = LossScaleState {
            scale: of(&[scaling.start]),
            counts: of(&FIRST_COUNTS),
        };
        let (mut p, mut m, mut v) = (of(&[1.0, -1.0]), of(&[0.0; 2]), of(&[0.0; 2]));
        let (mut scale, mut good, mut taken, mut skipped) = (1024.0f64, 0, 0, 0);
        let mut want = [[1.0f64, -1.0], [0.0; 2], [0.0; 2]];
        for g in grads {
            let unscaled = [g, -2.0 * g];
            let grad = of(&unscaled.map(|g| g * scale as f32));
            let norm = backend.grad_norm(&[&grad]).expect("norm");
            let step = ScaledStep {
                norm: &norm,
                lr,
                beta1,
                beta2,
                max_norm: Some(max_norm),
                scaling,
            };
            let (numbers, own) = backend.loss_scale(&mut state, step).expect("scaling");
            let step = AdamWStep {
                lr,
                beta1,
                beta2,
                eps,
                step: 0,
                clip: None,
                scaled: Some(&numbers),
            };
            let tensor = AdamWTensor {
                param: &mut p,
                grad: &grad,
                m: &mut m,
                v: &mut v,
                weight_decay: decay,
            };
            backend.adamw(&mut [tensor], step).expect("step");
            if g.is_finite() {
                let g = unscaled.map(f64::from);
                let length = g[0].hypot(g[1]);
                let off = (f64::from(values(&own)[0]) / length - 1.0).abs();
                assert!(off < 1e-6, "{name}: the norm is off by {off:e}");
                (taken, good) = (taken + 1, good + 1);
                let factor = (f64::from(max_norm) / (length + 1e-6)).min(1.0);
                let [lr, b1, b2] = [lr, beta1, beta2].map(f64::from);
                for i in 0..2 {
                    let [p, m, v] = [0, 1, 2].map(|k| want[k][i]);
                    let m = b1 * m + (1.0 - b1) * g[i] * factor;
                    let v = b2 * v + (1.0 - b2) * (g[i] * factor).powi(2);
                    let hat = (v / (1.0 - b2.powi(taken))).sqrt() + f64::from(eps);
                    let p =
                        p * (1.0 - lr * f64::from(decay)) - lr * m / (1.0 - b1.powi(taken)) / hat;
                    [want[0][i], want[1][i], want[2][i]] = [p, m, v];
                }
                if good == 3 {
                    (scale, good) = (scale * 2.0, 0);
                }
            } else {
                assert!(!values(&own)[0].is_finite(), "{name}");
                (scale, good, skipped) = (scale * 0.5, 0, skipped + 1);
            }
            assert_eq!(values(&state.scale), [scale as f32], "{name}");
            let counts = [good, taken, skipped].map(|n| n as f32);
            assert_eq!(values(&state.counts)[..3], counts, "{name}");
            for (got, want) in [&p, &m, &v].into_iter().zip(&want) {
                for (got, want) in values(got).iter().zip(want) {
                    let off = (f64::from(*got) - want).abs();
                    assert!(off < 2e-6, "{name}: {got}, not {want}");
                }
            }
        }
        assert_eq!((taken, skipped), (10, 2));
    }
}
