//! What [`Info::supports`] promises runs, forward and backward; what it denies answers `Unsupported` and nothing else;
//! so does every operation of a backend that has none.

use check::tenants;
use clip_distill::backend::contract::*;
use clip_distill::backend::{Backend, Error, Op, Result, Segments, cpu::Cpu};
use clip_distill::tensor::{DType, Normalisation, Tensor};

#[path = "common/check.rs"]
mod check;
#[path = "oracle/mod.rs"]
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

/// A backend with tensors in memory and no operation: what a new one begins with.
#[derive(Debug)]
struct Bare(Cpu);

impl Info for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn describe(&self) -> String {
        "no operations".into()
    }

    fn supports(&self, _: Op, _: DType, _: &[usize]) -> bool {
        false
    }
}

impl Storage for Bare {
    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        self.0.upload(shape, data)
    }

    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        self.0.upload_i32(shape, data)
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.0.download(tensor)
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        self.0.zeros(shape)
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        self.0.copy(tensor)
    }

    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
        self.0.accumulate(slot, value)
    }
}

macro_rules! defaults {
    ($($op:ident),*) => { $(impl $op for Bare {})* };
}
defaults!(
    Steps,
    Images,
    Linear,
    Matmul,
    LayerNorm,
    Conv2d,
    BatchNorm,
    AvgPool,
    Attention,
    AttentionPool
);
defaults!(
    Embedding,
    Patchify,
    PrependClass,
    PrependMean,
    SelectRows,
    Submatrix,
    L2Normalize,
    Exp
);
defaults!(
    WeightedSum,
    Relation,
    RelationBackward,
    RelationCurvature,
    IntraWeighting,
    Sum,
    Mse,
    AdamW,
    GradNorm,
    LossScale
);

/// The first operand's shape, as the call below has it, and as `supports` is asked.
fn shapes(op: Op) -> (&'static [usize], &'static [usize]) {
    match op {
        Op::Conv2d | Op::AvgPool | Op::PrependMean => (&[2, 4, 4, 8], &[2, 4, 4, 8]),
        Op::Images | Op::Patchify => (&[2, 4, 4, 3], &[2, 4, 4, 3]),
        Op::Attention => (&[4, 24], &[4, 2, 4]),
        Op::AttentionPool => (&[4, 8], &[4, 2, 2, 4]),
        Op::IntraWeighting => (&[4], &[4]),
        Op::Sum | Op::LossScale => (&[1], &[1]),
        _ => (&[4, 8], &[4, 8]),
    }
}

/// Every method of the operation's trait, with `x` as its first operand.
fn calls(on: &dyn Backend, op: Op, x: Tensor) -> Vec<Result<()>> {
    let full = |shape: &[usize]| {
        let n = shape.iter().product();
        on.upload(shape, &vec![0.5; n]).expect("upload")
    };
    let index = |values: &[i32]| on.upload_i32(&[values.len()], values).expect("upload");
    let like = || full(x.shape());
    let [mut a, mut b, mut c, mut d] = [None, None, None, None];
    let (a, b, c, d) = (Some(&mut a), Some(&mut b), Some(&mut c), Some(&mut d));
    fn done<T>(result: Result<T>) -> Result<()> {
        result.map(|_| ())
    }
    let logits = |x: &Tensor| Logits {
        x: x.clone(),
        y: full(&[4, 8]),
        scale: full(&[1]),
    };
    let stats = || RowStats {
        softmax: full(&[2, 4]),
        teacher_softmax: None,
        value: full(&[4]),
    };
    let pair = |x: &Tensor| Pair {
        student: logits(x),
        teacher: None,
        skip_diagonal: false,
    };
    match op {
        Op::Images => vec![done(on.images(x.shape(), &[7; 96], &Normalisation::OPENAI))],
        Op::Linear => {
            let (w, act) = (full(&[3, 8]), Activation::Gelu);
            let (dy, pre) = (full(&[4, 3]), full(&[4, 3]));
            let of = LinearBackward {
                dy: &dy,
                x: &x,
                w: &w,
                pre: Some(&pre),
                act,
            };
            vec![
                done(on.linear(&x, &w, None, None, act, true)),
                on.linear_backward(of, a, b, c),
                done(on.activate(&x, act)),
            ]
        }
        Op::Matmul => {
            let p = full(&[8, 3]);
            let dy = full(&[4, 3]);
            vec![
                done(on.matmul(&x, &p)),
                on.matmul_backward(&dy, &x, &p, a, b),
            ]
        }
        Op::LayerNorm => {
            let (gamma, rows, dy) = (full(&[8]), full(&[4]), like());
            let of = LayerNormBackward {
                dy: &dy,
                x: &x,
                gamma: &gamma,
                mean: &rows,
                rstd: &rows,
            };
            vec![
                done(on.layer_norm(&x, &gamma, &gamma, 1e-5)),
                on.layer_norm_backward(of, a, b, c),
            ]
        }
        Op::Conv2d => {
            let shape = Convolution {
                kernel: 3,
                stride: 1,
                padding: 1,
            };
            let (w, dy) = (full(&[5, 72]), full(&[2, 4, 4, 5]));
            vec![
                done(on.conv2d(&x, &w, shape)),
                on.conv2d_backward(&dy, &x, &w, shape, a, b),
            ]
        }
        Op::BatchNorm => {
            let (channels, dy) = (full(&[8]), like());
            let moments = Moments {
                mean: full(&[8]),
                variance: full(&[8]),
            };
            let of = BatchNormForward {
                x: &x,
                gamma: &channels,
                beta: &channels,
                moments: &moments,
                eps: 1e-5,
                residual: None,
                relu: false,
            };
            let back = BatchNormBackward {
                dy: &dy,
                x: &x,
                y: None,
                gamma: &channels,
                moments: &moments,
                eps: 1e-5,
                of_batch: true,
            };
            vec![
                done(on.batch_moments(&x)),
                done(on.batch_norm(of)),
                on.batch_norm_backward(back, a, b, c, d),
            ]
        }
        Op::AvgPool => vec![
            done(on.avg_pool(&x, 1)),
            on.avg_pool_backward(&x, x.shape(), 1, a),
        ],
        Op::Attention => {
            let segments = Segments::new(on, [1, 3]).expect("segments");
            let (out, lse) = (full(&[4, 8]), full(&[2, 4]));
            let of = AttentionBackward {
                dout: &out,
                qkv: &x,
                out: &out,
                lse: &lse,
                segments: &segments,
                heads: 2,
                causal: true,
            };
            vec![
                done(on.attention(&x, &segments, 2, true)),
                on.attention_backward(of, a),
            ]
        }
        Op::AttentionPool => {
            let (k, probabilities, dout) = (full(&[8, 8]), full(&[4, 2, 2]), full(&[4, 8]));
            let of = AttentionPoolBackward {
                dout: &dout,
                q: &x,
                k: &k,
                v: &k,
                probabilities: &probabilities,
            };
            vec![
                done(on.attention_pool(&x, &k, &k, 2)),
                on.attention_pool_backward(of, a, b, c),
            ]
        }
        Op::Embedding => {
            let ids = index(&[0, 3, 1, 1]);
            let of = EmbeddingBackward {
                dy: &x,
                ids: &ids,
                pos: &ids,
                vocab: 4,
                context: 4,
            };
            vec![
                done(on.embedding(&x, &full(&[4, 8]), &ids, &ids)),
                on.embedding_backward(of, a, b),
            ]
        }
        Op::Patchify => vec![done(on.patchify(&x, 2))],
        Op::PrependClass => vec![
            done(on.prepend_class(&x, &full(&[8]), &full(&[3, 8]))),
            on.prepend_class_backward(&x, 1, a, b, c),
        ],
        Op::PrependMean => vec![
            done(on.prepend_mean(&x, &full(&[17, 8]))),
            on.prepend_mean_backward(&x, &[2, 1, 15, 8], a, b),
        ],
        Op::SelectRows => {
            let rows = index(&[0, 3, 1, 1]);
            vec![
                done(on.select_rows(&x, &rows)),
                on.select_rows_backward(&x, &rows, 4, a),
            ]
        }
        Op::Submatrix => {
            let (rows, columns) = (index(&[2, 0]), index(&[7, 1, 3]));
            let of = Selection {
                x: &x,
                rows: &rows,
                columns: &columns,
                r: None,
                c: None,
            };
            vec![
                done(on.submatrix(of)),
                on.submatrix_backward(&full(&[2, 3]), of, a, b, c),
            ]
        }
        Op::L2Normalize => vec![
            done(on.l2_normalize(&x)),
            on.l2_normalize_backward(&like(), &x, &full(&[4]), a),
        ],
        Op::Exp => vec![done(on.exp(&x)), on.exp_backward(&like(), &x, a)],
        Op::WeightedSum => vec![
            done(on.weighted_sum(&[(&x, 0.5)])),
            on.scale_backward(&x, 0.5, a),
        ],
        Op::Relation => vec![done(on.relation(&pair(&x)))],
        Op::RelationBackward => {
            let side = Side {
                stats: stats(),
                coef: full(&[4]),
            };
            vec![on.relation_backward(&pair(&x), &side, None, a, b)]
        }
        Op::RelationCurvature => {
            let (u, logits, stats) = (full(&[4, 8]), logits(&x), stats());
            let of = HessianProduct {
                logits: &logits,
                stats: &stats,
                tangent: (&u, &u),
                coef: 1.0,
            };
            vec![on.relation_curvature(of, a, b, c)]
        }
        Op::IntraWeighting => vec![done(on.intra_weights(&x, IntraWeights::Uniform, None))],
        Op::Sum => vec![done(on.sum(&x, 1.0)), done(on.scale_by(&x, 1.0, None, 4))],
        Op::Mse => vec![
            done(on.mse(&x, &like())),
            on.mse_backward(&full(&[1]), &x, &like(), a),
        ],
        Op::AdamW => {
            let mut x = x;
            let (grad, mut m, mut v) = (full(x.shape()), full(x.shape()), full(x.shape()));
            let step = AdamWStep {
                lr: 0.1,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                step: 1,
                clip: None,
                scaled: None,
            };
            let tensor = AdamWTensor {
                param: &mut x,
                grad: &grad,
                m: &mut m,
                v: &mut v,
                weight_decay: 0.0,
            };
            vec![on.adamw(&mut [tensor], step), on.clamp(&mut x, 0.0, 1.0)]
        }
        Op::GradNorm => vec![done(on.grad_norm(&[&x]))],
        Op::LossScale => {
            let mut state = LossScaleState {
                scale: x,
                counts: full(&[7]),
            };
            let step = ScaledStep {
                norm: &full(&[1]),
                lr: 0.1,
                beta1: 0.9,
                beta2: 0.99,
                max_norm: None,
                scaling: LossScaling::default(),
            };
            vec![done(on.loss_scale(&mut state, step))]
        }
    }
}

/// The operand of `op` in the two element types that come from the host.
fn operand(on: &dyn Backend, op: Op, dtype: DType) -> Tensor {
    let shape = shapes(op).0;
    let n = shape.iter().product();
    let x = match dtype {
        DType::I32 => on.upload_i32(shape, &vec![1; n]),
        _ => on.upload(shape, &vec![0.5; n]),
    };
    x.expect("upload")
}

fn assert_unsupported(results: Vec<Result<()>>, backend: &str, op: Op) {
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Err(Error::Unsupported {
                backend: by,
                op: named,
                ..
            }) => {
                // A backend may name the method instead, where an operation has two.
                let names = match op {
                    Op::Sum => [op.name(), "scale_by"],
                    Op::AdamW => [op.name(), "clamp"],
                    _ => [op.name(); 2],
                };
                let named_well = by == backend && names.contains(&named);
                assert!(
                    named_well,
                    "call {number}: {named} on {by}, not {}",
                    op.name()
                );
            }
            other => panic!("{} on {backend}, call {number}: {other:?}", op.name()),
        }
    }
}

#[test]
fn what_is_promised_runs_and_what_is_denied_is_unsupported() {
    for tenant in tenants() {
        let backend = &*tenant.backend;
        for &op in Op::ALL {
            for dtype in [DType::F32, DType::I32] {
                // Pixels come from the host as bytes: there is no operand of another type.
                if op == Op::Images && dtype == DType::I32 {
                    continue;
                }
                let results = calls(backend, op, operand(backend, op, dtype));
                match backend.supports(op, dtype, shapes(op).1) {
                    false => assert_unsupported(results, backend.name(), op),
                    true => {
                        let name = format!("{} of {dtype:?} on {}", op.name(), tenant.name());
                        let failed = |e| panic!("{name}: {e}");
                        results.into_iter().for_each(|r| r.unwrap_or_else(failed));
                    }
                }
            }
        }
    }
}

#[test]
fn a_backend_without_operations_says_so() {
    let bare = Bare(Cpu::new());
    for &op in Op::ALL {
        assert_unsupported(calls(&bare, op, operand(&bare, op, DType::F32)), "bare", op);
    }
}

/// Sizes that only some devices take; the CPU takes all of them.
#[test]
fn limits_are_of_size_alone() {
    for tenant in tenants() {
        let supports = |op, shape: &[usize]| tenant.backend.supports(op, DType::F32, shape);
        let cpu = tenant.backend.name() == "cpu";
        for (op, last, beyond) in [
            (Op::LayerNorm, &[3, 8192][..], &[3, 8193][..]),
            (Op::Attention, &[5, 2, 128], &[5, 2, 129]),
            (Op::AttentionPool, &[1, 8192, 2, 4], &[1, 8193, 2, 4]),
            (
                Op::Conv2d,
                &[1 << 10, 1 << 10, 1 << 9, 3],
                &[1 << 10, 1 << 10, 1 << 10, 3],
            ),
            (
                Op::AvgPool,
                &[1 << 10, 1 << 10, 1 << 10, 4],
                &[1 << 10, 1 << 10, 1 << 11, 4],
            ),
        ] {
            assert!(
                supports(op, last),
                "{} {last:?} on {}",
                op.name(),
                tenant.name()
            );
            assert_eq!(
                supports(op, beyond),
                cpu,
                "{} on {}",
                op.name(),
                tenant.name()
            );
        }
    }
}
