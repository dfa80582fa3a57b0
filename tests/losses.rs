//! Every loss on every backend at hand against the f64 oracle, which holds every n×n matrix, and its central
//! differences. Losses are f32 in every precision, so that all backends are held to the same tolerances.

use check::{Tenant, tenants_with};
use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::IntraWeights::{self, Clip, Detached, Divergence, Stable, Uniform};
use clip_distill::backend::Op;
use clip_distill::loss::{self, Features, Intra, Modality, TeacherFeatures};
use clip_distill::tensor::rng::{Philox, Purpose};
use oracle::{Array, intra};
use proptest::prelude::*;

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

const WEIGHTS: [IntraWeights; 5] = [Divergence, Stable, Detached, Uniform, Clip];
const MODALITIES: [Modality; 3] = [Modality::Both, Modality::Image, Modality::Text];

/// Who can compute all losses.
fn tenants() -> Vec<Tenant> {
    tenants_with(&[
        Op::Relation,
        Op::RelationCurvature,
        Op::IntraWeighting,
        Op::Mse,
        Op::WeightedSum,
    ])
}

/// For what takes long: those in f32, in bf16 the launches are the same ones. The CPU's tiles are the largest, so
/// it gets `cpu` pairs and the others fewer.
fn tenants_in_f32(cpu: usize, others: usize) -> impl Iterator<Item = (Tenant, usize)> {
    let in_f32 = tenants().into_iter().filter(|t| t.low.is_none());
    in_f32.map(move |t| match t.backend.name() {
        "cpu" => (t, cpu),
        _ => (t, others),
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Clip,
    Crd,
    Affinity,
    Fd,
    Icl,
    CrossKd,
    Gd,
    Intra(IntraWeights, Modality),
}

impl Loss {
    /// Whether it compares features themselves, which then have one width.
    fn wants_one_width(self) -> bool {
        matches!(self, Self::Fd | Self::Icl | Self::CrossKd | Self::Gd)
    }
}

fn all_losses() -> Vec<Loss> {
    use Loss::{Affinity, Clip, Crd, CrossKd, Fd, Gd, Icl};
    let mut all = vec![Clip, Crd, Affinity, Fd, Icl, CrossKd, Gd];
    for weights in WEIGHTS {
        all.extend(MODALITIES.map(|modality| Loss::Intra(weights, modality)));
    }
    all
}

/// Unit features, each value exactly an f32.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    width: usize,
    teacher_width: usize,
    /// The variables in one vector: v, then s, then α.
    x: Vec<f64>,
    image: Vec<f64>,
    text: Vec<f64>,
    teacher_scale: f64,
}

fn unit(x: &mut [f64], width: usize) {
    for row in x.chunks_mut(width) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut()
            .for_each(|v| *v = f64::from((*v / norm) as f32));
    }
}

impl Case {
    /// Captions are near their images and the student near its teacher, as in training.
    fn new(n: usize, width: usize, teacher_width: usize, scales: (f32, f32), seed: u64) -> Self {
        let mut rng = Philox::new(seed, Purpose::Test, 0, 0);
        let mut normal = |n: usize| (0..n).map(|_| f64::from(rng.normal())).collect::<Vec<_>>();
        let mut near = |x: &[f64], distance: f64| {
            let noise = normal(x.len());
            x.iter()
                .zip(noise)
                .map(|(x, e)| x + distance * e)
                .collect::<Vec<_>>()
        };
        let mut image = near(&vec![0.0; n * teacher_width], 1.0);
        let mut text = near(&image, 1.0);
        let fit = |x: &[f64]| -> Vec<f64> {
            let row = |i: usize| (0..width).map(move |k| x[i * teacher_width + k % teacher_width]);
            (0..n).flat_map(row).collect()
        };
        let (mut v, mut s) = (near(&fit(&image), 0.7), near(&fit(&text), 0.7));
        unit(&mut image, teacher_width);
        unit(&mut text, teacher_width);
        unit(&mut v, width);
        unit(&mut s, width);
        let x = v
            .into_iter()
            .chain(s)
            .chain([f64::from(scales.0)])
            .collect();
        Self {
            n,
            width,
            teacher_width,
            x,
            image,
            text,
            teacher_scale: f64::from(scales.1),
        }
    }

    fn student(&self) -> (&[f64], &[f64], f64) {
        let (v, rest) = self.x.split_at(self.n * self.width);
        (v, &rest[..rest.len() - 1], rest[rest.len() - 1])
    }

    /// The student becomes its teacher, scale and all.
    fn equal(mut self) -> Self {
        assert_eq!(self.width, self.teacher_width);
        self.x = [&self.image[..], &self.text[..], &[self.teacher_scale]].concat();
        self
    }
}

/// The loss of `case` by the oracle; what a stop-gradient holds is taken from `frozen`.
fn oracle(loss: Loss, case: &Case, frozen: &Case) -> f64 {
    let student = |case: &Case| {
        let ((v, s, scale), shape) = (case.student(), [case.n, case.width]);
        oracle::losses::Features {
            image: Array::new(&shape, v.to_vec()),
            text: Array::new(&shape, s.to_vec()),
            scale,
        }
    };
    let shape = [case.n, case.teacher_width];
    let teacher = oracle::losses::Features {
        image: Array::new(&shape, case.image.clone()),
        text: Array::new(&shape, case.text.clone()),
        scale: case.teacher_scale,
    };
    let (moved, frozen) = (student(case), student(frozen));
    match loss {
        Loss::Clip => oracle::losses::clip(&moved),
        Loss::Crd => oracle::losses::crd(&moved, &teacher),
        Loss::Affinity => oracle::losses::affinity(&moved, &teacher),
        Loss::Fd => oracle::losses::fd(&moved, &teacher),
        Loss::Icl => oracle::losses::icl(&moved, &teacher),
        Loss::CrossKd => oracle::losses::cross_kd(&moved, &teacher),
        Loss::Gd => oracle::losses::gd(&moved, &teacher),
        Loss::Intra(weights, modality) => {
            let weights = match weights {
                Divergence => intra::Weights::Divergence,
                Stable => intra::Weights::Stable,
                Detached => intra::Weights::Detached,
                Uniform => intra::Weights::Uniform,
                Clip => intra::Weights::Clip,
            };
            let modality = match modality {
                Modality::Both => intra::Modality::Both,
                Modality::Image => intra::Modality::Image,
                Modality::Text => intra::Modality::Text,
            };
            let shared = intra::Scale::Shared;
            intra::intra(&moved, &frozen, &teacher, weights, modality, shared)
        }
    }
}

/// Central difference along `direction`.
fn slope(loss: Loss, case: &Case, direction: impl Fn(usize) -> f64) -> f64 {
    let at = |h: f64| {
        let mut moved = case.clone();
        moved
            .x
            .iter_mut()
            .enumerate()
            .for_each(|(k, x)| *x += h * direction(k));
        oracle(loss, &moved, case)
    };
    let h = 1e-5;
    // Fourth order: at α = 100 the third derivative is 1e6.
    (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
}

/// Loss and gradient (v, s, α in one vector) by the engine.
fn engine(tenant: &Tenant, loss: Loss, case: &Case) -> (f32, Vec<f32>) {
    let tape = Tape::new(tenant.backend.clone());
    let upload = |shape: &[usize], x: &[f64]| {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        tape.backend().upload(shape, &x).unwrap()
    };
    let ((v, s, alpha), n) = (case.student(), case.n);
    let student = Features {
        image: tape.leaf(upload(&[n, case.width], v)),
        text: tape.leaf(upload(&[n, case.width], s)),
    };
    let scale = tape.leaf(upload(&[1], &[alpha]));
    let teacher = TeacherFeatures {
        image: upload(&[n, case.teacher_width], &case.image),
        text: upload(&[n, case.teacher_width], &case.text),
        scale: upload(&[1], &[case.teacher_scale]),
    };
    let value = match loss {
        Loss::Clip => loss::clip(&tape, &student, &scale),
        Loss::Crd => loss::crd(&tape, &student, &scale, &teacher),
        Loss::Affinity => loss::affinity(&tape, &student, &scale, &teacher),
        Loss::Fd => loss::fd(&tape, &student, &teacher),
        Loss::Icl => loss::icl(&tape, &student, &scale, &teacher),
        Loss::CrossKd => loss::cross_kd(&tape, &student, &scale, &teacher),
        Loss::Gd => loss::gd(&tape, &student, &scale, &teacher),
        Loss::Intra(weights, modality) => {
            let options = Intra { weights, modality };
            loss::intra(&tape, &student, &scale, &teacher, &options, &scale)
        }
    }
    .unwrap();
    let grads = tape.backward(&value).unwrap();
    let read = |x: &Var| match grads.get(x) {
        Some(g) => tape.backend().download(g).unwrap(),
        None => vec![0.0; x.value().len()],
    };
    let gradient = [read(&student.image), read(&student.text), read(&scale)].concat();
    (tape.backend().download(value.value()).unwrap()[0], gradient)
}

/// The smaller of both modalities' sums of cross-entropies, Σℓ.
fn known(case: &Case) -> f64 {
    let (v, s, alpha) = case.student();
    let array = |x: &[f64]| Array::new(&[case.n, case.width], x.to_vec());
    let (v, s) = (array(v), array(s));
    let sum = |x, y| intra::cross_entropies(x, y, alpha).iter().sum::<f64>();
    sum(&v, &s).min(sum(&s, &v))
}

/// `rounding` is what the numbers that made the gradient leave where they cancel.
fn close(what: &str, got: f32, want: f64, size: f64, rounding: f64) {
    let error = (f64::from(got) - want).abs();
    let bound = tolerance::GRADIENT * size + rounding;
    assert!(
        error <= bound,
        "{what}: {got} for {want:e}, off by {error:e} of {bound:e}"
    );
}

/// Forward, and the gradient of every variable.
fn check(loss: Loss, case: &Case) {
    let want = oracle(loss, case, case);
    let count = case.x.len();
    let slopes: Vec<f64> = (0..count)
        .map(|k| slope(loss, case, |j| f64::from(u8::from(j == k))))
        .collect();
    let (features, scale) = slopes.split_at(count - 1);
    let largest = features.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    let alpha = case.x[count - 1];
    let rounding = tolerance::LOSS_GRADIENT_PER_SCALE * alpha.max(1.0);
    for tenant in tenants() {
        let what = format!(
            "{loss:?} n={} d={}/{} on {}",
            case.n,
            case.width,
            case.teacher_width,
            tenant.name()
        );
        let (value, gradient) = engine(&tenant, loss, case);
        let error = (f64::from(value) - want).abs();
        assert!(
            error <= f64::from(tolerance::OUTPUT) * want.abs().max(tolerance::SMALL_LOSS),
            "{what}: {value} for {want}"
        );
        for (k, &want) in features.iter().enumerate() {
            let what = format!("{what} feature {k}");
            close(&what, gradient[k], want, largest, rounding);
        }
        // ∂L/∂α collects cosines where ∂L/∂x collects α: smaller by that.
        let what = format!("{what} scale");
        let rounding = tolerance::LOSS_GRADIENT_PER_SCALE;
        close(
            &what,
            gradient[count - 1],
            scale[0],
            scale[0].abs(),
            rounding,
        );
    }
}

#[test]
fn every_loss_matches_its_formula() {
    for loss in all_losses() {
        let widths = if loss.wants_one_width() {
            (7, 7)
        } else {
            (6, 9)
        };
        check(loss, &Case::new(9, widths.0, widths.1, (14.3, 20.0), 1));
        check(loss, &Case::new(5, widths.0, widths.1, (1.0, 3.0), 2));
    }
    // Drawn once: students' and targets' softmaxes cancel to a thousandth.
    let case = Case::new(5, 7, 4, (26.91985, 16.378204), 8984947039942603723);
    check(Loss::Intra(Clip, Modality::Both), &case);
    // Drawn as well: rows that are nearly certain, whose losses consist of what their softmaxes lack of 1.
    let case = Case::new(5, 13, 6, (29.538967, 19.663923), 10985799184902201806);
    check(Loss::Intra(Stable, Modality::Image), &case);
    let case = Case::new(2, 2, 2, (8.958187, 5.628751), 3088006488469772946);
    check(Loss::Gd, &case);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn odd_sizes(
        n in 1usize..14,
        width in 2usize..19,
        teacher_width in 2usize..19,
        alpha in 1.0f32..30.0,
        teacher_alpha in 1.0f32..30.0,
        which in 0usize..22,
        seed in any::<u64>(),
    ) {
        let loss = all_losses()[which];
        let width = if loss.wants_one_width() { teacher_width } else { width };
        let case = Case::new(n, width, teacher_width, (alpha, teacher_alpha), seed);
        // Weights ℓ/Σℓ are as badly conditioned as Σℓ is small: unlearnable noise, not an error.
        prop_assume!(!matches!(loss, Loss::Intra(Clip, _)) || known(&case) > 0.1);
        check(loss, &case);
    }
}

/// More rows than a block and more columns than a tile: along directions, as there are too many
/// variables for one difference each.
#[test]
fn many_tiles() {
    for (tenant, n) in tenants_in_f32(1100, 200) {
        let case = Case::new(n, 4, 5, (14.3, 20.0), 3);
        let same = Case::new(n, 5, 5, (14.3, 20.0), 3);
        for loss in all_losses() {
            if matches!(
                loss,
                Loss::Intra(Stable | Detached, _) | Loss::Intra(_, Modality::Text)
            ) {
                continue; // the same tiles as the others
            }
            let case = if loss.wants_one_width() { &same } else { &case };
            let (value, gradient) = engine(&tenant, loss, case);
            let want = oracle(loss, case, case);
            assert!(
                (f64::from(value) - want).abs() < f64::from(tolerance::OUTPUT) * want,
                "{loss:?} on {}: {value} for {want}",
                tenant.name()
            );
            // Uphill, so that nothing cancels in the comparison.
            let norm = gradient
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            let want = slope(loss, case, |k| f64::from(gradient[k]) / norm);
            assert!(
                (norm - want).abs() < tolerance::GRADIENT * want,
                "{loss:?} on {}: slope {norm} for {want}",
                tenant.name()
            );
        }
    }
}

fn nothing_to_learn(tenant: &Tenant, loss: Loss, case: &Case) {
    let (value, gradient) = engine(tenant, loss, case);
    let what = format!("{loss:?} n={} on {}", case.n, tenant.name());
    assert_eq!(value, 0.0, "{what}");
    assert!(gradient.iter().all(|&g| g == 0.0), "{what}");
}

#[test]
fn a_student_equal_to_its_teacher_has_nothing_to_learn() {
    let check = |tenant: &Tenant, n, scale| {
        let case = Case::new(n, 17, 17, (1.0, scale), 4).equal();
        for loss in all_losses() {
            // Nor does affinity have a gradient then, but its value is the teacher's entropy.
            if !matches!(loss, Loss::Clip | Loss::Icl | Loss::Affinity) {
                nothing_to_learn(tenant, loss, &case);
            }
        }
    };
    for tenant in tenants() {
        for (n, scale) in [(1, 5.0), (2, 14.3), (7, 14.3)] {
            check(&tenant, n, scale);
        }
    }
    for (tenant, n) in tenants_in_f32(600, 200) {
        check(&tenant, n, 100.0);
    }
}

#[test]
fn one_negative_tells_nothing() {
    for n in [1, 2] {
        let case = Case::new(n, 6, 6, (14.3, 30.0), 5);
        for loss in all_losses() {
            if matches!(loss, Loss::Intra(..)) {
                for tenant in tenants() {
                    nothing_to_learn(&tenant, loss, &case);
                }
            }
        }
    }
}

/// Duplicate rows, both scales at their clamp, softmaxes that are one-hot in f32.
#[test]
fn extremes_stay_finite_and_right() {
    let mut duplicates = Case::new(8, 8, 8, (14.3, 20.0), 6);
    duplicates.text.copy_within(8..16, 32);
    duplicates.text.copy_within(8..16, 48);
    let at = duplicates.n * duplicates.width;
    duplicates.x.copy_within(at + 8..at + 16, at + 32);
    let mut identical = Case::new(6, 8, 8, (100.0, 100.0), 7);
    for rows in [&mut identical.image, &mut identical.text] {
        (1..6).for_each(|i| rows.copy_within(0..8, 8 * i));
    }
    let clamped = Case::new(12, 8, 8, (100.0, 100.0), 8);
    let mut one_hot = Case::new(6, 6, 6, (100.0, 100.0), 9);
    for i in 0..6 {
        for k in 0..6 {
            let on = f64::from(u8::from(k == i));
            (one_hot.image[6 * i + k], one_hot.text[6 * i + k]) = (on, on);
            (one_hot.x[6 * i + k], one_hot.x[36 + 6 * i + k]) = (on, on);
        }
    }
    for loss in all_losses() {
        for (name, case) in [
            ("duplicates", &duplicates),
            ("identical", &identical),
            ("clamped", &clamped),
            ("one_hot", &one_hot),
        ] {
            for tenant in tenants() {
                let (value, gradient) = engine(&tenant, loss, case);
                let what = format!("{loss:?} {name} on {}", tenant.name());
                assert!(value.is_finite() && value >= 0.0, "{what}: {value}");
                assert!(gradient.iter().all(|g| g.is_finite()), "{what}");
            }
            if name == "duplicates" || name == "clamped" {
                check(loss, case);
            }
        }
    }
}

/// Nor, on the emulated device, the order of a block's threads, which each launch draws anew.
#[test]
fn the_number_of_threads_changes_no_bit() {
    for (tenant, n) in tenants_in_f32(700, 130) {
        let case = Case::new(n, 24, 24, (14.3, 20.0), 10);
        for loss in all_losses() {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let (value, gradient) = pool.install(|| engine(&tenant, loss, &case));
                (
                    value.to_bits(),
                    gradient.into_iter().map(f32::to_bits).collect::<Vec<_>>(),
                )
            };
            assert!(run(1) == run(2), "{loss:?} on {}", tenant.name());
            assert!(run(1) == run(5), "{loss:?} on {}", tenant.name());
        }
    }
}

#[test]
fn a_nan_is_not_hidden() {
    let mut case = Case::new(4, 3, 3, (14.3, 20.0), 11);
    case.x[4] = f64::NAN;
    for tenant in tenants() {
        for loss in all_losses() {
            if !matches!(loss, Loss::Intra(_, Modality::Text)) {
                let value = engine(&tenant, loss, &case).0;
                assert!(value.is_nan(), "{loss:?} on {}", tenant.name());
            }
        }
    }
}
