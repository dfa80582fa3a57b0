//! The similarity kernels where no loss of a test's size takes them: long features at the largest scale, and more
//! tiles than a block takes at a time. Features and statistics are f32 in every precision.

use check::backends;
use clip_distill::backend::Op;
use clip_distill::backend::cpu::Cpu;
use clip_distill::backend::{Backend, HessianProduct, Logits, Pair, RowStats, Side};
use clip_distill::tensor::Tensor;
use oracle::{Array, normal};
use std::sync::Arc;

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

/// Unit rows, each value an f32.
fn unit(mut a: Array) -> Array {
    for row in a.data.chunks_mut(a.shape[1]) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut()
            .for_each(|v| *v = f64::from((*v / norm) as f32));
    }
    a
}

fn upload(backend: &dyn Backend, a: &Array) -> Tensor {
    backend.upload(&a.shape, &a.to_f32()).expect("upload")
}

fn relation(backend: &dyn Backend, x: &Array, y: &Array, scale: f32) -> Logits {
    Logits {
        x: upload(backend, x),
        y: upload(backend, y),
        scale: backend.upload(&[1], &[scale]).expect("upload"),
    }
}

fn values(backend: &dyn Backend, t: &Tensor) -> Vec<f32> {
    backend.download(t).expect("download")
}

/// With one candidate, a row's largest logit is its logit.
#[test]
fn a_logit_is_right_to_a_few_roundings() {
    const SCALE: f64 = 100.0;
    for width in [512, 1021] {
        let y = unit(normal(&[1, width], 1));
        let mut x = normal(&[200, width], 2);
        for row in x.data.chunks_mut(width) {
            for (x, y) in row.iter_mut().zip(&y.data) {
                // Cosines from 0.7 up.
                *x = y + *x / (width as f64).sqrt();
            }
        }
        let x = unit(x);
        for backend in backends(&[Op::Relation]) {
            let student = relation(&*backend, &x, &y, SCALE as f32);
            let pair = Pair {
                teacher: Some(student.clone()),
                student,
                skip_diagonal: false,
            };
            let stats = backend.relation(&pair).expect("forward");
            let rows = values(&*backend, &stats.softmax);
            for (got, x) in rows.into_iter().zip(x.data.chunks(width)) {
                let want = SCALE * x.iter().zip(&y.data).map(|(x, y)| x * y).sum::<f64>();
                let off = (f64::from(got) - want).abs();
                assert!(
                    off <= SCALE * tolerance::COSINE,
                    "width {width} on {}: {got} for {want}, off by {off:e}",
                    backend.name()
                );
            }
        }
    }
}

/// Statistics, and gradients of the anchors and the scale.
fn run(
    backend: &dyn Backend,
    pair: &Pair,
    col: impl Fn(&RowStats) -> Option<RowStats>,
) -> Vec<(&'static str, Vec<f32>)> {
    let stats = backend.relation(pair).expect("forward");
    let side = |stats: RowStats| {
        let n = stats.value.len();
        let coef: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 / n as f32).collect();
        let coef = backend.upload(&[n], &coef).expect("upload");
        Side { stats, coef }
    };
    let (row, col) = (side(stats.clone()), col(&stats).map(side));
    let col = match &col {
        // The same direction is the same side, as the intra-modal losses have it.
        Some(_) if pair.skip_diagonal => Some(&row),
        other => other.as_ref(),
    };
    let (mut dx, mut dscale) = (None, None);
    backend
        .relation_backward(pair, &row, col, Some(&mut dx), Some(&mut dscale))
        .expect("backward");
    let read = |t: &Tensor| values(backend, t);
    let teacher = stats.teacher_softmax.as_ref();
    let teacher = teacher.map(|softmax| ("teacher's softmax", read(softmax)));
    let others = vec![
        ("softmax", read(&stats.softmax)),
        ("value", read(&stats.value)),
        ("gradient", read(&dx.expect("dx"))),
        ("scale's gradient", read(&dscale.expect("dscale"))),
    ];
    teacher.into_iter().chain(others).collect()
}

/// Equal to the CPU's, relative to the largest of them.
fn near(what: &str, got: &[f32], want: &[f32], on: &str) {
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(largest > 0.0 && got.len() == want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance::PARAMETER_GRADIENT * largest,
            "{what} at {i} on {on}: {got} for {want}"
        );
    }
}

/// More than one tile of columns a block, more than one step of the width: the CPU, which the oracle holds to account, is the reference.
#[test]
fn many_rows_and_columns() {
    let rows = |n: usize, seed| unit(normal(&[n, 20], seed));
    let [x, y] = [1, 2].map(|seed| rows(2200, seed));
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    let intra = |backend: &dyn Backend| {
        let (student, teacher) = (
            relation(backend, &x, &x, 20.0),
            relation(backend, &y, &y, 30.0),
        );
        // Anchors are their own candidates: one tensor.
        let own = |r: Logits| Logits {
            y: r.x.clone(),
            ..r
        };
        let pair = Pair {
            student: own(student),
            teacher: Some(own(teacher)),
            skip_diagonal: true,
        };
        run(backend, &pair, |stats| Some(stats.clone()))
    };
    let [u, v] = [3, 4].map(|seed| rows(300, seed));
    let [z, w] = [5, 6].map(|seed| rows(1281, seed));
    let cross = |backend: &dyn Backend, teacher: bool| {
        let teacher = |a, b| teacher.then(|| relation(backend, a, b, 30.0));
        let pair = Pair {
            student: relation(backend, &u, &z, 20.0),
            teacher: teacher(&v, &w),
            skip_diagonal: false,
        };
        let back = Pair {
            student: relation(backend, &z, &u, 20.0),
            teacher: teacher(&w, &v),
            skip_diagonal: false,
        };
        run(backend, &pair, |_| {
            let both = back.teacher.is_some();
            both.then(|| backend.relation(&back).expect("forward"))
        })
    };
    let all = |b: &dyn Backend| [intra(b), cross(b, true), cross(b, false)].concat();
    let want = all(&*cpu);
    for backend in backends(&[Op::Relation]) {
        for (k, ((what, got), (_, want))) in all(&*backend).iter().zip(&want).enumerate() {
            near(&format!("{what} (number {k})"), got, want, backend.name());
        }
    }
}

/// As [`many_rows_and_columns`], of the curvature.
#[test]
fn curvature_of_many_rows() {
    let rows = |n: usize, seed| unit(normal(&[n, 20], seed));
    let [x, y, u, z] = [1, 2, 3, 4].map(|seed| rows(2200, seed));
    let all = |backend: &dyn Backend| {
        let logits = relation(backend, &x, &y, 20.0);
        let pair = Pair {
            student: logits.clone(),
            teacher: None,
            skip_diagonal: false,
        };
        let (mut dx, mut dy, mut dscale) = (None, None, None);
        let of = HessianProduct {
            logits: &logits,
            stats: &backend.relation(&pair).expect("forward"),
            tangent: (&upload(backend, &u), &upload(backend, &z)),
            coef: 0.5,
        };
        backend
            .relation_curvature(of, Some(&mut dx), Some(&mut dy), Some(&mut dscale))
            .expect("curvature");
        [("dx", dx), ("dy", dy), ("dscale", dscale)]
            .map(|(what, slot)| (what, values(backend, &slot.expect("a gradient"))))
    };
    let want = all(&Cpu::new());
    for backend in backends(&[Op::RelationCurvature]) {
        for ((what, got), (_, want)) in all(&*backend).iter().zip(&want) {
            near(what, got, want, backend.name());
        }
    }
}

/// φ = ⟨u, ∂ℓ/∂x⟩ + ⟨z, ∂ℓ/∂y⟩ for tangents u and z, ℓ = coef Σ_i CE: its gradients by central differences,
/// with more candidates than anchors, onto slots that are empty and then not.
#[test]
fn curvature_is_a_second_derivative() {
    const COEF: f64 = 0.125;
    let (n, m, width) = (5, 7, 3);
    let inputs = [
        unit(normal(&[n, width], 1)),
        unit(normal(&[m, width], 2)),
        Array::scalar(9.5),
    ];
    let [u, z] = [(n, 3), (m, 4)].map(|(rows, seed)| {
        let a = normal(&[rows, width], seed);
        Array::from_f32(&a.shape, &a.to_f32())
    });
    let phi = |inputs: &[Array]| {
        let scale = inputs[2].value();
        let [dx, dy] = oracle::losses::contrast_gradients(&inputs[0], &inputs[1], scale);
        let both = oracle::dot(&u.data, &dx.data) + oracle::dot(&z.data, &dy.data);
        // The oracle's ℓ is the mean.
        Array::scalar(COEF * n as f64 * both)
    };
    let want = oracle::numeric_gradients(&inputs, phi, &Array::scalar(1.0));
    for backend in backends(&[Op::RelationCurvature]) {
        let relation = relation(&*backend, &inputs[0], &inputs[1], 9.5);
        let pair = Pair {
            student: relation.clone(),
            teacher: None,
            skip_diagonal: false,
        };
        let stats = backend.relation(&pair).expect("forward");
        let (u, z) = (upload(&*backend, &u), upload(&*backend, &z));
        let (mut dx, mut dy, mut dscale) = (None, None, None);
        for times in [1.0, 2.0] {
            let slots = (Some(&mut dx), Some(&mut dy), Some(&mut dscale));
            let coef = COEF as f32;
            backend
                .relation_curvature(
                    HessianProduct {
                        logits: &relation,
                        stats: &stats,
                        tangent: (&u, &z),
                        coef,
                    },
                    slots.0,
                    slots.1,
                    slots.2,
                )
                .expect("curvature");
            for (slot, want) in [&dx, &dy, &dscale].into_iter().zip(&want) {
                let got = values(&*backend, slot.as_ref().expect("a gradient"));
                let largest = want.data.iter().fold(0f64, |m, v| m.max(v.abs()));
                assert_eq!(got.len(), want.data.len());
                for (got, want) in got.iter().zip(&want.data) {
                    let off = (f64::from(*got) - times * want).abs();
                    assert!(
                        off <= times * tolerance::GRADIENT * largest,
                        "{got} for {times} × {want} on {}",
                        backend.name()
                    );
                }
            }
        }
        let misshapen = backend.relation_curvature(
            HessianProduct {
                logits: &relation,
                stats: &stats,
                tangent: (&u, &u),
                coef: 1.0,
            },
            Some(&mut dx),
            None,
            None,
        );
        let error = misshapen
            .expect_err("a tangent of the wrong side")
            .to_string();
        assert!(error.contains("relation_curvature"), "{error}");
    }
}
