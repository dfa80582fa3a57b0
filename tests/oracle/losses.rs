//! The inter-modal losses, and what all losses share. Similarities, not normalisation: features
//! are taken as they come, so that gradients are with respect to the features themselves.

use super::{Array, STEP, dot, log_sum_exp, numeric_gradients_with_step, softmax};

/// Image and text features [N, d] of one model, row i of each from pair i, and its scale α.
#[derive(Clone, Debug)]
pub struct Features {
    pub image: Array,
    pub text: Array,
    pub scale: f64,
}

/// The gradient of a loss with respect to the student's features and scale.
#[derive(Clone, Debug)]
pub struct FeatureGradients {
    pub image: Array,
    pub text: Array,
    pub scale: f64,
}

/// upstream · ∂loss/∂(image, text, scale) at `student`, by central differences.
pub fn feature_gradients(
    student: &Features,
    loss: impl Fn(&Features) -> f64,
    upstream: f64,
) -> FeatureGradients {
    feature_gradients_with_step(student, loss, upstream, STEP)
}

pub fn feature_gradients_with_step(
    student: &Features,
    loss: impl Fn(&Features) -> f64,
    upstream: f64,
    step: f64,
) -> FeatureGradients {
    let inputs = [
        student.image.clone(),
        student.text.clone(),
        Array::scalar(student.scale),
    ];
    let value = |inputs: &[Array]| {
        Array::scalar(loss(&Features {
            image: inputs[0].clone(),
            text: inputs[1].clone(),
            scale: inputs[2].value(),
        }))
    };
    let gradients = numeric_gradients_with_step(&inputs, value, &Array::scalar(upstream), step);
    let [image, text, scale]: [Array; 3] = gradients.try_into().unwrap();
    FeatureGradients {
        image,
        text,
        scale: scale.value(),
    }
}

/// scale · a_i·b_j as rows.
pub fn logits(a: &Array, b: &Array, scale: f64) -> Vec<Vec<f64>> {
    (0..a.rows())
        .map(|i| {
            (0..b.rows())
                .map(|j| scale * dot(a.row(i), b.row(j)))
                .collect()
        })
        .collect()
}

/// −ln softmax(row)[target].
pub fn cross_entropy(row: &[f64], target: usize) -> f64 {
    log_sum_exp(row) - row[target]
}

/// KL(softmax(teacher) ‖ softmax(student)) of two rows of logits.
pub fn divergence(teacher: &[f64], student: &[f64]) -> f64 {
    let (of_teacher, of_student) = (log_sum_exp(teacher), log_sum_exp(student));
    teacher
        .iter()
        .zip(student)
        .map(|(b, a)| (b - of_teacher).exp() * ((b - of_teacher) - (a - of_student)))
        .sum()
}

/// H(softmax(teacher), softmax(student)) of two rows of logits.
pub fn soft_cross_entropy(teacher: &[f64], student: &[f64]) -> f64 {
    let (of_teacher, of_student) = (log_sum_exp(teacher), log_sum_exp(student));
    teacher
        .iter()
        .zip(student)
        .map(|(b, a)| (b - of_teacher).exp() * (of_student - a))
        .sum()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// mean_i CE(scale · a_i·b_:, i).
fn contrast(a: &Array, b: &Array, scale: f64) -> f64 {
    let rows = logits(a, b, scale);
    mean(
        rows.iter()
            .enumerate()
            .map(|(i, row)| cross_entropy(row, i)),
    )
}

/// ½ mean_i [CE(α v_i·s_:, i) + CE(α s_i·v_:, i)].
pub fn clip(student: &Features) -> f64 {
    let Features { image, text, scale } = student;
    0.5 * (contrast(image, text, *scale) + contrast(text, image, *scale))
}

/// ½ mean_i of `compare(teacher's row, student's row)`, image→text and text→image.
fn relations(
    student: &Features,
    teacher: &Features,
    compare: impl Fn(&[f64], &[f64]) -> f64,
) -> f64 {
    let one_way = |teacher: Vec<Vec<f64>>, student: Vec<Vec<f64>>| {
        mean(teacher.iter().zip(&student).map(|(b, a)| compare(b, a)))
    };
    let (s, t) = (student, teacher);
    let image_to_text = one_way(
        logits(&t.image, &t.text, t.scale),
        logits(&s.image, &s.text, s.scale),
    );
    let text_to_image = one_way(
        logits(&t.text, &t.image, t.scale),
        logits(&s.text, &s.image, s.scale),
    );
    0.5 * (image_to_text + text_to_image)
}

/// ½ mean_i [KL(softmax(α_T V_i·T_:) ‖ softmax(α v_i·s_:)) + the same text→image].
pub fn crd(student: &Features, teacher: &Features) -> f64 {
    relations(student, teacher, divergence)
}

/// ½ mean_i [H(softmax(α_T V_i·T_:), softmax(α v_i·s_:)) + the same text→image].
pub fn affinity(student: &Features, teacher: &Features) -> f64 {
    relations(student, teacher, soft_cross_entropy)
}

/// The mean over rows and columns of (x − y)².
pub fn mean_squared_difference(x: &Array, y: &Array) -> f64 {
    assert_eq!(x.shape, y.shape);
    mean(x.data.iter().zip(&y.data).map(|(a, b)| (a - b).powi(2)))
}

/// The mean squared difference of the image features plus that of the text features.
pub fn fd(student: &Features, teacher: &Features) -> f64 {
    mean_squared_difference(&student.image, &teacher.image)
        + mean_squared_difference(&student.text, &teacher.text)
}

/// ½ mean_i [CE(c v_i·T_:, i) + CE(c s_i·V_:, i)], c = `student.scale`: the loss's own scale.
pub fn icl(student: &Features, teacher: &Features) -> f64 {
    let c = student.scale;
    0.5 * (contrast(&student.image, &teacher.text, c) + contrast(&student.text, &teacher.image, c))
}

/// ½ mean_i [KL(softmax(α_T V_i·T_:) ‖ softmax(c v_i·T_:)) + KL(softmax(α_T T_i·V_:) ‖ softmax(c s_i·V_:))],
/// c = `student.scale`.
pub fn cross_kd(student: &Features, teacher: &Features) -> f64 {
    let met = |x: &Array, y: &Array| logits(x, y, student.scale);
    let own = |x: &Array, y: &Array| logits(x, y, teacher.scale);
    let mean_of = |student: Vec<Vec<f64>>, teacher: Vec<Vec<f64>>| {
        mean(teacher.iter().zip(&student).map(|(b, a)| divergence(b, a)))
    };
    let to_text = mean_of(
        met(&student.image, &teacher.text),
        own(&teacher.image, &teacher.text),
    );
    let to_image = mean_of(
        met(&student.text, &teacher.image),
        own(&teacher.text, &teacher.image),
    );
    0.5 * (to_text + to_image)
}

/// The gradients of mean_i CE(scale · x_i·y_:, i) with respect to x and y.
pub fn contrast_gradients(x: &Array, y: &Array, scale: f64) -> [Array; 2] {
    let (mut dx, mut dy) = (Array::zeros(&x.shape), Array::zeros(&y.shape));
    let n = x.rows();
    for (i, row) in logits(x, y, scale).iter().enumerate() {
        for (j, p) in softmax(row).into_iter().enumerate() {
            let g = scale * (p - f64::from(u8::from(i == j))) / n as f64;
            for e in 0..x.width() {
                dx.row_mut(i)[e] += g * y.row(j)[e];
                dy.row_mut(j)[e] += g * x.row(i)[e];
            }
        }
    }
    [dx, dy]
}

/// The four mean squared differences between student's and teacher's gradients of both directions.
pub fn gd(student: &Features, teacher: &Features) -> f64 {
    let pulls = |of: &Features| {
        let to_text = contrast_gradients(&of.image, &of.text, of.scale);
        let to_image = contrast_gradients(&of.text, &of.image, of.scale);
        [to_text, to_image].concat()
    };
    let (ours, theirs) = (pulls(student), pulls(teacher));
    ours.iter()
        .zip(&theirs)
        .map(|(a, b)| mean_squared_difference(a, b))
        .sum()
}
