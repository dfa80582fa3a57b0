//! The oracle checked against values worked out by hand and gradients known in closed form: what
//! the rest of the tests lean on must stand by itself.

mod oracle;

use oracle::adamw::{AdamW, sequence};
use oracle::attention::attention;
use oracle::attention_pool::{attention_pool, prepend_mean};
use oracle::avg_pool::avg_pool;
use oracle::batch_norm::{batch_norm, moments};
use oracle::class_token::class_token;
use oracle::conv2d::conv2d;
use oracle::embedding::embedding;
use oracle::intra::{self, Modality, Scale, Weights, intra, intra_gradients};
use oracle::l2_normalize::l2_normalize;
use oracle::layer_norm::{EPS, layer_norm};
use oracle::linear::{Activation, erf, erfc, gelu, linear, quick_gelu};
use oracle::losses::{self, FeatureGradients, Features, feature_gradients, logits};
use oracle::patchify::patchify;
use oracle::select_rows::select_rows;
use oracle::submatrix::submatrix;
use oracle::weighted_sum::weighted_sum;
use oracle::{Array, dot, log_sum_exp, normal, numeric_gradients, softmax, worst_difference};

/// What central differences promise, relative to the larger of one and the gradient.
const GRADIENT: f64 = 1e-8;

#[track_caller]
fn assert_near(value: f64, expected: f64, tolerance: f64) {
    let scale = expected.abs().max(f64::MIN_POSITIVE);
    assert!(
        (value - expected).abs() <= tolerance * scale,
        "{value:e} instead of {expected:e}"
    );
}

#[track_caller]
fn assert_arrays_near(value: &Array, expected: &Array, tolerance: f64) {
    let worst = worst_difference(value, expected);
    assert!(
        worst <= tolerance,
        "off by {worst:e}\n{value:?}\n{expected:?}"
    );
}

fn array(shape: &[usize], values: &[f64]) -> Array {
    Array::new(shape, values.to_vec())
}

fn counted(shape: &[usize]) -> Array {
    let count = shape.iter().product();
    Array::new(shape, (0..count).map(|i: usize| i as f64).collect())
}

fn unit(shape: &[usize], seed: u64) -> Array {
    l2_normalize(&normal(shape, seed))
}

/// A teacher's features, and a student's near them (closeness in 0..1).
fn models(pairs: usize, width: usize, student: f64, teacher: f64) -> (Features, Features) {
    let of_teacher = Features {
        image: unit(&[pairs, width], 11),
        text: unit(&[pairs, width], 12),
        scale: teacher,
    };
    let near = |x: &Array, seed| {
        let noise = normal(&x.shape, seed);
        l2_normalize(&weighted_sum(&[x.clone(), noise], &[1.0, 0.15]))
    };
    let of_student = Features {
        image: near(&of_teacher.image, 13),
        text: near(&of_teacher.text, 14),
        scale: student,
    };
    (of_student, of_teacher)
}

#[test]
fn error_function_has_its_known_values() {
    for (x, of_x, complement) in [
        (1e-3, 0.0011283787909692365, 0.9988716212090307),
        (0.1, 0.1124629160182849, 0.8875370839817152),
        (0.5, 0.5204998778130465, 0.4795001221869535),
        (1.0, 0.8427007929497149, 0.15729920705028513),
        (1.5, 0.9661051464753108, 0.033894853524689274),
        (1.9999, 0.9953201979070294, 0.004679802092970608),
        (2.0, 0.9953222650189527, 0.004677734981047265),
        (2.5, 0.999593047982555, 0.0004069520174449589),
        (3.0, 0.9999779095030014, 2.2090496998585438e-05),
        (5.0, 0.9999999999984626, 1.5374597944280351e-12),
    ] {
        assert_near(erf(x), of_x, 1e-15);
        assert_near(erf(-x), -of_x, 1e-15);
        assert_near(erfc(x), complement, 3e-15);
        assert_near(erfc(-x), 1.0 + of_x, 1e-15);
    }
    assert_eq!(erf(0.0), 0.0);
    assert_eq!(erfc(40.0), 0.0);
}

#[test]
fn activations_have_their_known_values() {
    assert_near(gelu(1.0), 0.8413447460685429, 1e-15);
    assert_near(gelu(-1.0), -0.15865525393145707, 1e-15);
    assert_near(gelu(-6.0), -6.0 * 9.865_876_450_376_98e-10, 1e-13);
    assert_eq!(gelu(0.0), 0.0);
    assert_near(quick_gelu(1.0), 1.0 / (1.0 + (-1.702f64).exp()), 1e-15);
    for x in [-1000.0, 1000.0] {
        assert_eq!(gelu(x).max(0.0), f64::max(x, 0.0));
        assert_eq!(quick_gelu(x).max(0.0), f64::max(x, 0.0));
    }
}

#[test]
fn softmax_survives_large_values_and_none() {
    let p = softmax(&[1000.0, 1000.0 + 3f64.ln()]);
    assert_near(p[0], 0.25, 1e-12);
    assert_near(p[1], 0.75, 1e-12);
    let p = softmax(&normal(&[9], 1).data);
    assert_near(p.iter().sum(), 1.0, 1e-15);
    assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
}

#[test]
fn numeric_gradients_match_a_polynomial_and_a_steep_exponential() {
    let inputs = [array(&[2], &[2.0, -300.0]), Array::scalar(0.3)];
    let f = |x: &[Array]| {
        let c = x[1].value();
        array(&[2], &[x[0].data[0].powi(3) * c, x[0].data[1].powi(2)])
    };
    let gradients = numeric_gradients(&inputs, f, &array(&[2], &[2.0, -1.0]));
    assert_near(gradients[0].data[0], 2.0 * 3.0 * 4.0 * 0.3, 1e-10);
    assert_near(gradients[0].data[1], 600.0, 1e-10);
    assert_near(gradients[1].value(), 2.0 * 8.0, 1e-10);

    let steep = |x: &[Array]| Array::scalar((100.0 * x[0].value()).exp());
    let gradient = numeric_gradients(&[Array::scalar(0.01)], steep, &Array::scalar(1.0));
    assert_near(gradient[0].value(), 100.0 * 1f64.exp(), 1e-9);
}

#[test]
fn linear_by_hand() {
    let x = array(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let weight = array(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]);
    let bias = array(&[3], &[10.0, 20.0, 30.0]);
    let residual = array(&[2, 3], &[100.0, 0.0, 0.0, 0.0, 0.0, -100.0]);
    assert_eq!(
        linear(&x, &weight, Some(&bias), Activation::None, Some(&residual)),
        array(&[2, 3], &[111.0, 22.0, 29.0, 13.0, 24.0, -71.0])
    );
    let y = linear(&x, &weight, None, Activation::QuickGelu, Some(&residual));
    assert_eq!(y.data[0], quick_gelu(1.0) + 100.0);
    assert_eq!(y.data[2], quick_gelu(-1.0));
}

#[test]
fn linear_gradients_in_closed_form() {
    let inputs = [
        normal(&[3, 4], 1),
        normal(&[5, 4], 2),
        normal(&[5], 3),
        normal(&[3, 5], 4),
    ];
    let [x, weight, bias, residual] = &inputs;
    let upstream = normal(&[3, 5], 5);
    for activation in Activation::ALL {
        let numeric = numeric_gradients(
            &inputs,
            |i| linear(&i[0], &i[1], Some(&i[2]), activation, Some(&i[3])),
            &upstream,
        );
        let mut dz = linear(x, weight, Some(bias), Activation::None, None);
        for (z, u) in dz.data.iter_mut().zip(&upstream.data) {
            let slope = match activation {
                Activation::None => 1.0,
                Activation::Gelu => {
                    let density = (-*z * *z / 2.0).exp() / std::f64::consts::TAU.sqrt();
                    0.5 * erfc(-*z / 2f64.sqrt()) + *z * density
                }
                Activation::QuickGelu => {
                    let sigma = 1.0 / (1.0 + (-1.702 * *z).exp());
                    sigma + 1.702 * *z * sigma * (1.0 - sigma)
                }
            };
            *z = u * slope;
        }
        let (mut dx, mut dw) = (Array::zeros(&x.shape), Array::zeros(&weight.shape));
        let mut db = Array::zeros(&bias.shape);
        for i in 0..3 {
            for o in 0..5 {
                let g = dz.row(i)[o];
                db.data[o] += g;
                for e in 0..4 {
                    dx.row_mut(i)[e] += g * weight.row(o)[e];
                    dw.row_mut(o)[e] += g * x.row(i)[e];
                }
            }
        }
        assert_eq!(residual.shape, upstream.shape);
        for (value, expected) in numeric.iter().zip([&dx, &dw, &db, &upstream]) {
            assert_arrays_near(value, expected, GRADIENT);
        }
    }
}

#[test]
fn layer_norm_by_hand() {
    let x = array(&[2, 2], &[1.0, 3.0, 7.0, 7.0]);
    let y = layer_norm(&x, &array(&[2], &[2.0, 3.0]), &array(&[2], &[0.5, -0.5]));
    let one = 1.0 / (1.0 + 1e-5f64).sqrt();
    let expected = [-2.0 * one + 0.5, 3.0 * one - 0.5, 0.5, -0.5];
    assert_arrays_near(&y, &array(&[2, 2], &expected), 1e-15);
}

#[test]
fn layer_norm_gradients_in_closed_form() {
    let mut x = normal(&[3, 6], 1);
    x.row_mut(1).fill(0.25); // no variance at all
    let inputs = [x.clone(), normal(&[6], 2), normal(&[6], 3)];
    let upstream = normal(&[3, 6], 4);
    let numeric = numeric_gradients(&inputs, |i| layer_norm(&i[0], &i[1], &i[2]), &upstream);
    let gamma = &inputs[1].data;
    let mut dx = Array::zeros(&x.shape);
    let (mut dgamma, mut dbeta) = (Array::zeros(&[6]), Array::zeros(&[6]));
    for i in 0..3 {
        let mean = x.row(i).iter().sum::<f64>() / 6.0;
        let variance = x.row(i).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 6.0;
        let inverse = 1.0 / (variance + EPS).sqrt();
        let hat: Vec<f64> = x.row(i).iter().map(|v| (v - mean) * inverse).collect();
        let u = upstream.row(i);
        let g: Vec<f64> = u.iter().zip(gamma).map(|(u, c)| u * c).collect();
        let mean_g = g.iter().sum::<f64>() / 6.0;
        let mean_gh = dot(&g, &hat) / 6.0;
        for e in 0..6 {
            dx.row_mut(i)[e] = inverse * (g[e] - mean_g - hat[e] * mean_gh);
            dgamma.data[e] += u[e] * hat[e];
            dbeta.data[e] += u[e];
        }
    }
    for (value, expected) in numeric.iter().zip([&dx, &dgamma, &dbeta]) {
        assert_arrays_near(value, expected, GRADIENT);
    }
}

#[test]
fn attention_by_hand() {
    // Queries of zero look at everything they may see alike: means of the values.
    let mut qkv = normal(&[5, 6], 1);
    for (token, value) in [1.0, 2.0, 6.0, 10.0, 20.0].into_iter().enumerate() {
        qkv.row_mut(token)[..2].fill(0.0);
        qkv.row_mut(token)[4..].copy_from_slice(&[value, -value]);
    }
    let columns = |values: [f64; 5]| {
        let data = values.into_iter().flat_map(|v| [v, -v]).collect();
        Array::new(&[5, 2], data)
    };
    let offsets = [0, 3, 5];
    let all = attention(&qkv, &offsets, 1, false);
    assert_arrays_near(&all, &columns([3.0, 3.0, 3.0, 15.0, 15.0]), 1e-15);
    let causal = attention(&qkv, &offsets, 2, true);
    assert_arrays_near(&causal, &columns([1.0, 1.5, 3.0, 10.0, 15.0]), 1e-15);

    // Logits 0 and ln 3 through the scale 1/√4: weights 1/4 and 3/4.
    let mut qkv = Array::zeros(&[2, 12]);
    qkv.row_mut(0)[0] = 2.0;
    qkv.row_mut(1)[4] = 3f64.ln();
    qkv.row_mut(0)[8] = 4.0;
    qkv.row_mut(1)[8] = 8.0;
    let out = attention(&qkv, &[0, 2], 1, false);
    assert_near(out.row(0)[0], 7.0, 1e-15);
    assert_near(out.row(1)[0], 6.0, 1e-15);
}

#[test]
fn attention_keeps_sequences_and_heads_apart() {
    let qkv = normal(&[7, 12], 2);
    for causal in [false, true] {
        let packed = attention(&qkv, &[0, 3, 3, 7], 2, causal);
        for (start, end) in [(0, 3), (3, 7)] {
            let rows: Vec<usize> = (start..end).collect();
            let alone = attention(&select_rows(&qkv, &rows), &[0, end - start], 2, causal);
            assert_eq!(alone, select_rows(&packed, &rows));
        }
        for head in 0..2 {
            let data = (0..7)
                .flat_map(|r| {
                    [0, 4, 8].map(|part| qkv.row(r)[part + 2 * head..part + 2 * head + 2].to_vec())
                })
                .flatten()
                .collect();
            let alone = attention(&Array::new(&[7, 6], data), &[0, 3, 7], 1, causal);
            for r in 0..7 {
                assert_eq!(alone.row(r), &packed.row(r)[2 * head..2 * head + 2]);
            }
        }
    }
}

#[test]
fn attention_gradients_in_closed_form() {
    let (n, width) = (4, 3);
    let qkv = normal(&[n, 3 * width], 3);
    let upstream = normal(&[n, width], 4);
    let scale = 1.0 / (width as f64).sqrt();
    for causal in [false, true] {
        let numeric = numeric_gradients(
            std::slice::from_ref(&qkv),
            |i| attention(&i[0], &[0, n], 1, causal),
            &upstream,
        );
        let part = |token: usize, k: usize| &qkv.row(token)[k * width..(k + 1) * width];
        let mut expected = Array::zeros(&qkv.shape);
        for i in 0..n {
            let seen = if causal { i + 1 } else { n };
            let row: Vec<f64> = (0..seen)
                .map(|j| scale * dot(part(i, 0), part(j, 1)))
                .collect();
            let p = softmax(&row);
            let dp: Vec<f64> = (0..seen)
                .map(|j| dot(upstream.row(i), part(j, 2)))
                .collect();
            let centre = dot(&p, &dp);
            for j in 0..seen {
                let ds = scale * p[j] * (dp[j] - centre);
                for e in 0..width {
                    expected.row_mut(i)[e] += ds * part(j, 1)[e];
                    expected.row_mut(j)[width + e] += ds * part(i, 0)[e];
                    expected.row_mut(j)[2 * width + e] += p[j] * upstream.row(i)[e];
                }
            }
        }
        assert_arrays_near(&numeric[0], &expected, GRADIENT);
    }
}

#[test]
fn token_moves_by_hand() {
    let table = counted(&[4, 2]);
    let positions = array(&[2, 2], &[100.0, 100.0, 200.0, 200.0]);
    assert_eq!(
        embedding(&table, &positions, &[3, 0, 3], &[0, 1, 1]),
        array(&[3, 2], &[106.0, 107.0, 200.0, 201.0, 206.0, 207.0])
    );
    assert_eq!(
        select_rows(&table, &[2, 2, 0]),
        array(&[3, 2], &[4.0, 5.0, 4.0, 5.0, 0.0, 1.0])
    );
    let (r, c) = (array(&[2], &[2.0, 3.0]), array(&[1], &[10.0]));
    assert_eq!(
        submatrix(&table, &[3, 1], &[1], &r, &c),
        array(&[2, 1], &[140.0, 90.0])
    );
    let patches = counted(&[4, 1]); // two images of two patches
    let positions = array(&[3, 1], &[10.0, 20.0, 30.0]);
    assert_eq!(
        class_token(&patches, &array(&[1], &[7.0]), &positions),
        array(&[6, 1], &[17.0, 20.0, 31.0, 17.0, 22.0, 33.0])
    );
    // Two rows of two patches: the second starts two pixels to the right of the first.
    let patches = patchify(&counted(&[1, 4, 4, 3]), 2);
    assert_eq!(patches.shape, [4, 12]);
    let at = |y: usize, x: usize| ((y * 4 + x) * 3) as f64;
    for (patch, (y, x)) in [(0, 0), (0, 2), (2, 0), (2, 2)].into_iter().enumerate() {
        let corners = [(0, 0), (0, 1), (1, 0), (1, 1)];
        for (k, (dy, dx)) in corners.into_iter().enumerate() {
            for c in 0..3 {
                assert_eq!(patches.row(patch)[3 * k + c], at(y + dy, x + dx) + c as f64);
            }
        }
    }
    let second_image = patchify(&counted(&[2, 2, 2, 3]), 2);
    assert_eq!(second_image.row(1)[0], 12.0);
}

#[test]
fn small_operations_by_hand() {
    let x = array(&[3, 2], &[3.0, 4.0, 0.0, 0.0, 6e-13, 8e-13]);
    let expected = array(&[3, 2], &[0.6, 0.8, 0.0, 0.0, 0.6, 0.8]);
    assert_arrays_near(&l2_normalize(&x), &expected, 1e-15);
    assert_eq!(
        weighted_sum(&[Array::scalar(3.0), Array::scalar(5.0)], &[2.0, -1.0]).value(),
        1.0
    );
    let e = oracle::exp::exp(&array(&[2], &[0.0, 1.0]));
    assert_eq!(e.data, [1.0, std::f64::consts::E]);
}

#[test]
fn l2_normalize_gradient_in_closed_form() {
    let x = normal(&[3, 5], 1);
    let upstream = normal(&[3, 5], 2);
    let numeric = numeric_gradients(std::slice::from_ref(&x), |i| l2_normalize(&i[0]), &upstream);
    let y = l2_normalize(&x);
    let mut expected = x.clone();
    for i in 0..3 {
        let norm = dot(x.row(i), x.row(i)).sqrt();
        let along = dot(upstream.row(i), y.row(i));
        for e in 0..5 {
            expected.row_mut(i)[e] = (upstream.row(i)[e] - along * y.row(i)[e]) / norm;
        }
    }
    assert_arrays_near(&numeric[0], &expected, GRADIENT);
}

#[test]
fn losses_by_hand() {
    let corners = || array(&[2, 2], &[1.0, 0.0, 0.0, 1.0]);
    let swapped = || array(&[2, 2], &[0.0, 1.0, 1.0, 0.0]);
    let student = Features {
        image: corners(),
        text: corners(),
        scale: 2.0,
    };
    let teacher = Features {
        image: corners(),
        text: swapped(),
        scale: 3f64.ln(),
    };
    let right = (1.0 + (-2f64).exp()).ln(); // CE of logits (2, 0) against the 2
    assert_near(losses::clip(&student), right, 1e-14);
    // Image rows meet swapped texts, text rows the images as they are.
    assert_near(losses::icl(&student, &teacher), right + 1.0, 1e-14);
    // The teacher gives 1/4 to the match, 3/4 to the other; the student's logits are 2 and 0.
    let affinity = 0.25 * right + 0.75 * (right + 2.0);
    let entropy = -(0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
    assert_near(losses::affinity(&student, &teacher), affinity, 1e-14);
    assert_near(losses::crd(&student, &teacher), affinity - entropy, 1e-14);
    // Images agree; every one of the four text values is off by one.
    assert_near(losses::fd(&student, &teacher), 1.0, 1e-15);
    // The teacher gives 1/4 to the first and 3/4 to the second. Image rows meet swapped texts, with logits 0
    // and 2; text rows the images as they are, with 2 and 0.
    let to_text = 0.25 * (right + 2.0) + 0.75 * right;
    let to_image = 0.25 * right + 0.75 * (right + 2.0);
    let crossed = 0.5 * (to_text + to_image) - entropy;
    assert_near(losses::cross_kd(&student, &teacher), crossed, 1e-14);
}

/// The gradients that `gd` compares are those of the cross-entropies, and it is their squared distance.
#[test]
fn gradient_distillation_compares_gradients() {
    let (student, teacher) = models(5, 4, 14.0, 9.0);
    let contrast = |inputs: &[Array]| {
        let rows = logits(&inputs[0], &inputs[1], 14.0);
        let sum = |(i, row): (usize, &Vec<f64>)| losses::cross_entropy(row, i);
        Array::scalar(rows.iter().enumerate().map(sum).sum::<f64>() / 5.0)
    };
    let sides = [student.image.clone(), student.text.clone()];
    let numeric = numeric_gradients(&sides, contrast, &Array::scalar(1.0));
    let closed = losses::contrast_gradients(&student.image, &student.text, 14.0);
    for (numeric, closed) in numeric.iter().zip(&closed) {
        assert_arrays_near(numeric, closed, GRADIENT);
    }
    assert_eq!(losses::gd(&teacher, &teacher), 0.0);
    // Against a teacher that pulls at nothing, what is left is the student's own pull.
    let still = Features {
        scale: 0.0,
        ..teacher
    };
    let square = |a: &Array| a.data.iter().map(|x| x * x).sum::<f64>() / a.data.len() as f64;
    let back = losses::contrast_gradients(&student.text, &student.image, 14.0);
    let own: f64 = closed.iter().chain(&back).map(square).sum();
    assert_near(losses::gd(&student, &still), own, 1e-14);
}

#[test]
fn student_equal_to_teacher_loses_nothing() {
    let (student, _) = models(6, 4, 100.0, 100.0);
    assert_near(losses::crd(&student, &student) + 1.0, 1.0, 1e-12);
    assert_eq!(losses::fd(&student, &student), 0.0);
    for weights in Weights::ALL {
        let (modality, scale) = (Modality::Both, Scale::Shared);
        let loss = intra(&student, &student, &student, weights, modality, scale);
        assert!(loss.abs() < 1e-12, "{weights:?}: {loss:e}");
        let zero = Accumulator::new(&student).finish();
        let derived = derived_gradients(&student, &student, weights, modality, scale, 1.0);
        assert_gradients_near(&derived, &zero, 1e-12, &format!("{weights:?}"));
        // `stable` divides d² by the floor itself here: too steep for differences.
        if weights != Weights::Stable {
            let numeric = intra_gradients(&student, &student, weights, modality, scale, 1.0);
            assert_gradients_near(&numeric, &zero, 1e-6, &format!("{weights:?}"));
        }
    }
}

#[track_caller]
fn assert_gradients_near(
    value: &FeatureGradients,
    expected: &FeatureGradients,
    tolerance: f64,
    what: &str,
) {
    let image = worst_difference(&value.image, &expected.image);
    let text = worst_difference(&value.text, &expected.text);
    let scale = (value.scale - expected.scale).abs() / expected.scale.abs().max(1.0);
    assert!(
        image.max(text).max(scale) <= tolerance,
        "{what}: image {image:e}, text {text:e}, scale {scale:e}"
    );
}

/// Sums the gradients of features and scale from gradients of logits α a_i·b_j.
struct Accumulator {
    image: Array,
    text: Array,
    scale: f64,
}

impl Accumulator {
    fn new(student: &Features) -> Self {
        Self {
            image: Array::zeros(&student.image.shape),
            text: Array::zeros(&student.text.shape),
            scale: 0.0,
        }
    }

    /// The gradient `g` of the logit of image i and text j.
    fn add(&mut self, student: &Features, i: usize, j: usize, g: f64) {
        let (image, text) = (student.image.row(i), student.text.row(j));
        for e in 0..image.len() {
            self.image.row_mut(i)[e] += student.scale * g * text[e];
            self.text.row_mut(j)[e] += student.scale * g * image[e];
        }
        self.scale += g * dot(image, text);
    }

    fn finish(self) -> FeatureGradients {
        FeatureGradients {
            image: self.image,
            text: self.text,
            scale: self.scale,
        }
    }
}

#[test]
fn inter_modal_gradients_in_closed_form() {
    let (student, teacher) = models(5, 4, 14.0, 100.0);
    let n = 5;
    let rows = |a: &Array, b: &Array, scale: f64| -> Vec<Vec<f64>> {
        logits(a, b, scale).iter().map(|row| softmax(row)).collect()
    };
    let one_hot: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(i == j)).collect())
        .collect();
    let p = rows(&student.image, &student.text, student.scale);
    let p_back = rows(&student.text, &student.image, student.scale);
    let q = rows(&teacher.image, &teacher.text, teacher.scale);
    let q_back = rows(&teacher.text, &teacher.image, teacher.scale);
    let expected = |to_text: &[Vec<f64>], to_image: &[Vec<f64>]| {
        let mut sum = Accumulator::new(&student);
        for i in 0..n {
            for j in 0..n {
                let g = (p[i][j] - to_text[i][j]) + (p_back[j][i] - to_image[j][i]);
                sum.add(&student, i, j, 0.5 * 0.7 * g / n as f64);
            }
        }
        sum.finish()
    };
    let clip = feature_gradients(&student, losses::clip, 0.7);
    assert_gradients_near(&clip, &expected(&one_hot, &one_hot), GRADIENT, "clip");
    let crd = feature_gradients(&student, |s| losses::crd(s, &teacher), 0.7);
    assert_gradients_near(&crd, &expected(&q, &q_back), GRADIENT, "crd");
    let affinity = feature_gradients(&student, |s| losses::affinity(s, &teacher), 0.7);
    assert_gradients_near(&affinity, &expected(&q, &q_back), GRADIENT, "affinity");

    let mut icl = Accumulator::new(&student);
    for (x, other, gradient) in [
        (&student.image, &teacher.text, &mut icl.image),
        (&student.text, &teacher.image, &mut icl.text),
    ] {
        for (i, p) in rows(x, other, student.scale).iter().enumerate() {
            for j in 0..n {
                let g = 0.5 * (p[j] - one_hot[i][j]) / n as f64;
                for e in 0..4 {
                    gradient.row_mut(i)[e] += student.scale * g * other.row(j)[e];
                }
                icl.scale += g * dot(x.row(i), other.row(j));
            }
        }
    }
    let numeric = feature_gradients(&student, |s| losses::icl(s, &teacher), 1.0);
    assert_gradients_near(&numeric, &icl.finish(), GRADIENT, "icl");

    let slope = |x: &Array, y: &Array| {
        weighted_sum(
            &[x.clone(), y.clone()],
            &[1.0, -1.0].map(|c| c * 2.0 / 20.0),
        )
    };
    let fd = FeatureGradients {
        image: slope(&student.image, &teacher.image),
        text: slope(&student.text, &teacher.text),
        scale: 0.0,
    };
    let numeric = feature_gradients(&student, |s| losses::fd(s, &teacher), 1.0);
    assert_gradients_near(&numeric, &fd, GRADIENT, "fd");
}

#[test]
fn intra_by_hand() {
    // Three anchors, so two negatives each. The teacher sees all alike: q = ½, ½. The student has
    // x_0·x_1 = 1 and x_2 apart from both: its logits are (ln 3, 0) for anchors 0 and 1.
    let student = Features {
        image: array(&[3, 2], &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
        text: array(&[3, 2], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]),
        scale: 3f64.ln(),
    };
    let teacher = Features {
        image: student.text.clone(),
        text: student.text.clone(),
        scale: 100.0,
    };
    let d = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
    let found = intra::divergences(&student.image, &teacher.image, student.scale, 100.0);
    assert_arrays_near(&array(&[3], &found), &array(&[3], &[d, d, 0.0]), 1e-14);
    let loss = |weights, modality| {
        let scale = Scale::Shared;
        intra(&student, &student, &teacher, weights, modality, scale)
    };
    for weights in [Weights::Divergence, Weights::Stable, Weights::Detached] {
        assert_near(loss(weights, Modality::Image), d, 1e-13);
    }
    assert_near(
        loss(Weights::Uniform, Modality::Image),
        2.0 * d / 3.0,
        1e-13,
    );
    // CE over texts: images 0 and 1 see three equal logits, image 2 as well.
    assert_near(loss(Weights::Clip, Modality::Image), 2.0 * d / 3.0, 1e-13);
    assert!(loss(Weights::Divergence, Modality::Text).abs() < 1e-12);
    assert_near(loss(Weights::Divergence, Modality::Both), d, 1e-12);
}

#[test]
fn intra_of_one_pair_is_nothing() {
    let (student, teacher) = models(1, 4, 14.0, 100.0);
    for weights in Weights::ALL {
        let (modality, scale) = (Modality::Both, Scale::Shared);
        let loss = intra(&student, &student, &teacher, weights, modality, scale);
        assert_eq!(loss, 0.0, "{weights:?}");
    }
}

#[test]
fn intra_neighbourhoods_are_distributions_without_the_anchor() {
    let (student, _) = models(6, 4, 100.0, 100.0);
    for (i, p) in intra::neighbourhoods(&student.image, 100.0)
        .iter()
        .enumerate()
    {
        assert_eq!(p[i], 0.0);
        assert_near(p.iter().sum(), 1.0, 1e-14);
    }
}

/// The backward pass as derived by hand:
///
/// G_ij = ḡ g_i (p_ij − q_ij), ∂L/∂x_i = α Σ_{j≠i} (G_ij + G_ji) x_j, ∂L/∂α = Σ_{i≠j} G_ij x_i·x_j,
///
/// and for the weighting by `clip`, ∂L/∂ℓ_i = (d_i − L)/Σℓ flowing on into `clip`'s logits.
fn derived_gradients(
    student: &Features,
    teacher: &Features,
    weights: Weights,
    modality: Modality,
    scale: Scale,
    upstream: f64,
) -> FeatureGradients {
    let n = student.image.rows();
    let alpha = match scale {
        Scale::Fixed(value) => value,
        _ => student.scale,
    };
    let mut sum = Accumulator::new(student);
    for image in [true, false] {
        let (x, y, other) = match image {
            true => (&student.image, &teacher.image, &student.text),
            false => (&student.text, &teacher.text, &student.image),
        };
        if !(if image {
            modality.image()
        } else {
            modality.text()
        }) {
            continue;
        }
        let p = intra::neighbourhoods(x, alpha);
        let q = intra::neighbourhoods(y, teacher.scale);
        let d = intra::divergences(x, y, alpha, teacher.scale);
        let l = intra::cross_entropies(x, other, student.scale);
        let (total_d, total_l) = (intra::total(&d), intra::total(&l));
        let w = |i: usize| match weights {
            Weights::Divergence | Weights::Stable | Weights::Detached => d[i] / total_d,
            Weights::Uniform => 1.0 / n as f64,
            Weights::Clip => l[i] / total_l,
        };
        let loss: f64 = (0..n).map(|i| w(i) * d[i]).sum();
        let g = |i: usize| match weights {
            Weights::Divergence => (2.0 * d[i] - loss) / total_d,
            Weights::Stable => 2.0 * d[i] / total_d,
            Weights::Detached | Weights::Uniform | Weights::Clip => w(i),
        };
        let big_g = |i: usize, j: usize| upstream * g(i) * (p[i][j] - q[i][j]);
        for i in 0..n {
            for j in (0..n).filter(|&j| j != i) {
                let both = alpha * (big_g(i, j) + big_g(j, i));
                let gradient = if image { &mut sum.image } else { &mut sum.text };
                for (to, from) in gradient.row_mut(i).iter_mut().zip(x.row(j)) {
                    *to += both * from;
                }
                if scale == Scale::Shared {
                    sum.scale += big_g(i, j) * dot(x.row(i), x.row(j));
                }
            }
        }
        if weights == Weights::Clip {
            for (i, row) in logits(x, other, student.scale).iter().enumerate() {
                let into_l = upstream * (d[i] - loss) / total_l;
                for (j, s) in softmax(row).into_iter().enumerate() {
                    let of_logit = into_l * (s - f64::from(i == j));
                    match image {
                        true => sum.add(student, i, j, of_logit),
                        false => sum.add(student, j, i, of_logit),
                    }
                }
            }
        }
    }
    sum.finish()
}

#[test]
fn intra_derived_backward_equals_the_numeric_gradient() {
    for (student, teacher) in [models(5, 4, 14.3, 100.0), models(7, 3, 100.0, 50.0)] {
        for weights in Weights::ALL {
            for modality in Modality::ALL {
                for scale in [Scale::Shared, Scale::Detached, Scale::Fixed(20.0)] {
                    let numeric =
                        intra_gradients(&student, &teacher, weights, modality, scale, 0.7);
                    let derived =
                        derived_gradients(&student, &teacher, weights, modality, scale, 0.7);
                    let what = format!("{weights:?} {modality:?} {scale:?}");
                    assert_gradients_near(&numeric, &derived, GRADIENT, &what);
                    let norm = numeric.image.data.iter().chain(&numeric.text.data);
                    assert!(norm.map(|g| g * g).sum::<f64>() > 1e-4, "{what}: vacuous");
                }
            }
        }
    }
}

#[test]
fn intra_stops_gradients_without_changing_values() {
    let (student, teacher) = models(6, 4, 20.0, 50.0);
    let value = |weights| {
        let (modality, scale) = (Modality::Both, Scale::Shared);
        intra(&student, &student, &teacher, weights, modality, scale)
    };
    let gradient = |weights| {
        let (modality, scale) = (Modality::Both, Scale::Shared);
        intra_gradients(&student, &teacher, weights, modality, scale, 1.0).image
    };
    assert_eq!(value(Weights::Divergence), value(Weights::Stable));
    assert_eq!(value(Weights::Divergence), value(Weights::Detached));
    // g is 2d/Σd for `stable` and d/Σd for `detached`.
    let doubled = weighted_sum(&[gradient(Weights::Detached)], &[2.0]);
    assert_arrays_near(&gradient(Weights::Stable), &doubled, GRADIENT);
    assert!(worst_difference(&gradient(Weights::Divergence), &doubled) > 1e-3);
}

#[test]
fn adamw_by_hand() {
    let options = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let gradients = [array(&[1], &[0.5]), array(&[1], &[-0.25])];
    let steps = sequence(&array(&[1], &[1.0]), &gradients, &options);
    // The first step is the gradient's sign, whatever its size.
    let first = 0.99 - 0.1 * 0.5 / (0.5 + 1e-8);
    assert_near(steps[0].data[0], first, 1e-14);
    // m = 0.9·0.05 − 0.1·0.25 = 0.02 over 0.19; v = 0.999·0.00025 + 0.001·0.0625 over 0.001999.
    let root = (0.00031225f64 / 0.001999).sqrt();
    let second = first * 0.99 - 0.1 * (0.02 / 0.19) / (root + 1e-8);
    assert_near(steps[1].data[0], second, 1e-13);
}

#[test]
fn convolutions_by_hand() {
    // 1 to 9 in a 3×3 image; a filter that takes the pixel itself and, hundredfold, its right neighbour.
    let image = array(
        &[1, 3, 3, 1],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    );
    let filter = array(&[1, 9], &[0.0, 0.0, 0.0, 0.0, 1.0, 100.0, 0.0, 0.0, 0.0]);
    let every = conv2d(&image, &filter, 3, 1, 1);
    let want = [201.0, 302.0, 3.0, 504.0, 605.0, 6.0, 807.0, 908.0, 9.0];
    assert_eq!(every, array(&[1, 3, 3, 1], &want));
    let second = conv2d(&image, &filter, 3, 2, 1);
    assert_eq!(second, array(&[1, 2, 2, 1], &[201.0, 3.0, 807.0, 9.0]));
    assert_eq!(
        conv2d(&image, &filter, 3, 1, 0),
        array(&[1, 1, 1, 1], &[605.0])
    );
    // Two channels and two filters of one pixel: a product with a 2×2 matrix.
    let pixels = array(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let filters = array(&[2, 2], &[1.0, 10.0, 0.0, 1.0]);
    let mixed = conv2d(&pixels, &filters, 1, 1, 0);
    assert_eq!(mixed, array(&[1, 1, 2, 2], &[21.0, 2.0, 43.0, 4.0]));
}

#[test]
fn batch_norm_by_hand() {
    let x = array(&[2, 2], &[1.0, 5.0, 3.0, 5.0]);
    let (mean, variance) = moments(&x);
    assert_eq!(
        (&mean[..], &variance[..]),
        (&[2.0, 5.0][..], &[1.0, 0.0][..])
    );
    let (gamma, beta) = (array(&[2], &[2.0, 7.0]), array(&[2], &[0.5, -1.0]));
    let residual = array(&[2, 2], &[0.0, 3.0, 0.0, 0.0]);
    let one = (1.0 + 1e-5f64).sqrt().recip();
    let y = batch_norm(
        &x,
        &gamma,
        &beta,
        (&mean, &variance),
        Some(&residual),
        false,
    );
    let want = array(&[2, 2], &[0.5 - 2.0 * one, 2.0, 0.5 + 2.0 * one, -1.0]);
    assert_arrays_near(&y, &want, 1e-15);
    let y = batch_norm(&x, &gamma, &beta, (&mean, &variance), Some(&residual), true);
    let want = array(&[2, 2], &[0.0, 2.0, 0.5 + 2.0 * one, 0.0]);
    assert_arrays_near(&y, &want, 1e-15);
}

#[test]
fn pools_by_hand() {
    let image = array(&[1, 2, 4, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(avg_pool(&image, 2), array(&[1, 1, 2, 1], &[3.5, 5.5]));
    let pixels = array(&[1, 1, 2, 1], &[1.0, 3.0]);
    let positions = array(&[3, 1], &[10.0, 20.0, 30.0]);
    let tokens = prepend_mean(&pixels, &positions);
    assert_eq!(tokens, array(&[3, 1], &[12.0, 21.0, 33.0]));
    // The first row of full attention over the same tokens.
    let (heads, width) = (2, 6);
    let qkv = normal(&[5, 3 * width], 3);
    let full = attention(&qkv, &[0, 5], heads, false);
    let columns = |part: usize, rows: usize| {
        let part = part * width..(part + 1) * width;
        let row = |i: usize| qkv.row(i)[part.clone()].to_vec();
        Array::new(&[rows, width], (0..rows).flat_map(row).collect())
    };
    let pooled = attention_pool(&columns(0, 1), &columns(1, 5), &columns(2, 5), heads);
    assert_arrays_near(&pooled, &array(&[1, width], full.row(0)), 1e-15);
}
