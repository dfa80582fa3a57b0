//! The metrics as their definitions have them, in f64, as a range: scores nearer than rounding may come
//! in either order.

/// Scores of f32 features this near may change places.
const ROUNDING: f64 = 1e-5;

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let product = |(x, y): (&f32, &f32)| f64::from(*x) * f64::from(*y);
    a.iter().zip(b).map(product).sum()
}

/// normalise(mean of rows).
pub fn class_embedding(rows: &[Vec<f32>]) -> Vec<f32> {
    let mean: Vec<f64> = (0..rows[0].len())
        .map(|k| rows.iter().map(|r| f64::from(r[k])).sum::<f64>() / rows.len() as f64)
        .collect();
    let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    mean.iter().map(|x| (x / norm) as f32).collect()
}

/// Share of queries of which a right answer is among the first `k`: (at least, at most). A query is its
/// scores and the indices of its right answers.
pub fn recall(queries: &[(Vec<f64>, Vec<usize>)], k: usize) -> (f64, f64) {
    let found = |slack: f64| {
        let hit = |(scores, right): &&(Vec<f64>, Vec<usize>)| {
            right.iter().any(|&i| {
                let wins = |(j, &s): (usize, &f64)| !right.contains(&j) && s > scores[i] + slack;
                let before = scores.iter().enumerate().filter(|&c| wins(c)).count();
                let among = right.iter().filter(|&&j| scores[j] > scores[i]).count();
                before + among < k
            })
        };
        queries.iter().filter(hit).count() as f64 / queries.len() as f64
    };
    (found(-ROUNDING), found(ROUNDING))
}

/// Asserts that `value` is in a range narrow enough to be a test.
pub fn within(what: &str, value: &serde_json::Value, (low, high): (f64, f64)) {
    let value = value.as_f64().unwrap_or_else(|| panic!("no {what}"));
    assert!(high - low < 0.1, "{what}: {low} to {high} says nothing");
    assert!(
        low - 1e-9 <= value && value <= high + 1e-9,
        "{what}: {value} is not within {low} to {high}"
    );
}

/// R@1, 5, 10 both ways: `captions` holds, for each image, the features of its captions.
pub fn retrieval(images: &[Vec<f32>], captions: &[Vec<Vec<f32>>]) -> Vec<(String, (f64, f64))> {
    let flat: Vec<(usize, &Vec<f32>)> = captions
        .iter()
        .enumerate()
        .flat_map(|(i, own)| own.iter().map(move |c| (i, c)))
        .collect();
    let to_text: Vec<_> = (0..images.len())
        .map(|i| {
            let scores = flat.iter().map(|(_, c)| dot(&images[i], c)).collect();
            let right = (0..flat.len()).filter(|&c| flat[c].0 == i).collect();
            (scores, right)
        })
        .collect();
    let to_image: Vec<_> = flat
        .iter()
        .map(|(own, c)| (images.iter().map(|i| dot(i, c)).collect(), vec![*own]))
        .collect();
    let mut out = Vec::new();
    for (way, queries) in [("image_to_text", to_text), ("text_to_image", to_image)] {
        for k in [1, 5, 10] {
            out.push((format!("{way}_R@{k}"), recall(&queries, k)));
        }
    }
    out
}

/// Top-k accuracy.
pub fn accuracy(
    images: &[Vec<f32>],
    classes: &[Vec<f32>],
    labels: &[usize],
    k: usize,
) -> (f64, f64) {
    let queries: Vec<_> = images
        .iter()
        .zip(labels)
        .map(|(x, &label)| (classes.iter().map(|c| dot(x, c)).collect(), vec![label]))
        .collect();
    recall(&queries, k)
}
