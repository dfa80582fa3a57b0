//! What the anchors of the intra-modal loss look like over training, as numbers for the log.
//!
//! For each modality, `image` and `text`, a logged step has, where w_i are the weights and n the anchors:
//!
//! | key | meaning |
//! |---|---|
//! | `intra_image_d_p0`, `_p5`, `_p25`, `_p50`, `_p75`, `_p95`, `_p100` | quantiles of the divergences d_i, in nats |
//! | `intra_image_w_p0`, … `_p100` | the same of n·w_i: 1 is an anchor of average weight |
//! | `intra_image_ess` | effective sample size 1/Σw_i², as a share of n: 1 if all weigh the same |
//! | `intra_image_negative` | share of anchors with g_i = ∂L/∂d_i < 0, which the loss pushes away from the teacher |

use serde_json::{Map, Value, json};

/// The quantiles that are logged, in per cent.
pub const QUANTILES: [u32; 7] = [0, 5, 25, 50, 75, 95, 100];

/// The values of [`Anchors`](crate::loss::Anchors) on the host.
#[derive(Clone, Debug)]
pub struct AnchorValues {
    /// `image` or `text`.
    pub modality: &'static str,
    /// The divergences d_i.
    pub divergence: Vec<f32>,
    /// What the weights w_i are proportional to; `None` where they are all 1/n.
    pub weight: Option<Vec<f32>>,
    /// g_i = ∂L/∂d_i.
    pub slope: Vec<f32>,
}

/// Key and value of everything that a log line says of `anchors`. Weights whose sum is 0, those of a
/// student equal to its teacher, have no entries.
pub fn summary(anchors: &AnchorValues) -> Map<String, Value> {
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let d = wide(&anchors.divergence);
    let weight = match &anchors.weight {
        Some(weight) => wide(weight),
        None => vec![1.0; d.len()],
    };
    let mut line = Map::new();
    if d.is_empty() {
        return line;
    }
    let n = d.len() as f64;
    let mut put = |what: &str, value: f64| {
        line.insert(format!("intra_{}_{what}", anchors.modality), json!(value));
    };
    for (q, x) in QUANTILES.iter().zip(quantiles(d)) {
        put(&format!("d_p{q}"), x);
    }
    let sum: f64 = weight.iter().sum();
    if sum > 0.0 {
        let squares: f64 = weight.iter().map(|w| (w / sum).powi(2)).sum();
        let scaled = weight.iter().map(|w| n * w / sum).collect();
        for (q, x) in QUANTILES.iter().zip(quantiles(scaled)) {
            put(&format!("w_p{q}"), x);
        }
        put("ess", 1.0 / (n * squares));
    }
    let negative = anchors.slope.iter().filter(|g| **g < 0.0).count();
    put("negative", negative as f64 / n);
    line
}

/// [`QUANTILES`] of `values`, not empty; between two of them linear, as NumPy's default.
fn quantiles(mut values: Vec<f64>) -> [f64; QUANTILES.len()] {
    values.sort_by(f64::total_cmp);
    QUANTILES.map(|q| {
        let place = f64::from(q) / 100.0 * (values.len() - 1) as f64;
        let (below, above) = (
            values[place.floor() as usize],
            values[place.ceil() as usize],
        );
        below + (above - below) * place.fract()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchors(weight: Option<&[f32]>, d: &[f32], slope: &[f32]) -> AnchorValues {
        AnchorValues {
            modality: "text",
            divergence: d.to_vec(),
            weight: weight.map(<[f32]>::to_vec),
            slope: slope.to_vec(),
        }
    }

    fn close(line: &Map<String, Value>, key: &str, want: f64) {
        let got = line[key].as_f64().unwrap();
        assert!((got - want).abs() < 1e-12, "{key}: {got}, not {want}");
    }

    #[test]
    fn divergences_weigh_themselves() {
        let d = [4.0, 0.0, 2.0, 2.0];
        let seen = anchors(Some(&d), &d, &[0.5, -0.25, 0.0, -0.1]);
        let line = summary(&seen);
        // numpy.quantile([4, 0, 2, 2], [0, .05, .25, .5, .75, .95, 1])
        let want = [0.0, 0.3, 1.5, 2.0, 2.5, 3.7, 4.0];
        for (q, want) in QUANTILES.iter().zip(want) {
            close(&line, &format!("intra_text_d_p{q}"), want);
            close(&line, &format!("intra_text_w_p{q}"), want / 2.0);
        }
        // w = ½, 0, ¼, ¼: Σw² = 3/8.
        close(&line, "intra_text_ess", 8.0 / 3.0 / 4.0);
        close(&line, "intra_text_negative", 0.5);
        assert_eq!(line.len(), 16);
    }

    #[test]
    fn uniform_and_vanishing_weights() {
        let line = summary(&anchors(None, &[1.0, 3.0], &[0.5, 0.5]));
        close(&line, "intra_text_ess", 1.0);
        close(&line, "intra_text_w_p95", 1.0);
        let zero = [0.0, 0.0];
        let line = summary(&anchors(Some(&zero), &zero, &zero));
        assert!(!line.contains_key("intra_text_ess"));
        close(&line, "intra_text_d_p100", 0.0);
        close(&line, "intra_text_negative", 0.0);
    }
}
