//! Image-text retrieval: R@1, R@5, R@10 both ways, under two protocols.

use super::dot;
use rayon::prelude::*;

/// Queries that are compared with a candidate while it is in the cache.
const QUERIES: usize = 32;

/// Which captions take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captions {
    /// Each image with its first caption only: a square matrix, as CLIP-KD's code evaluates.
    First,
    /// Any of an image's captions counts for image→text; every caption is a query for text→image.
    All,
}

/// Shares of queries with a right answer among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Recall {
    /// R@1.
    pub r1: f64,
    /// R@5.
    pub r5: f64,
    /// R@10.
    pub r10: f64,
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Retrieval {
    /// Images as queries.
    pub image_to_text: Recall,
    /// Captions as queries.
    pub text_to_image: Recall,
}

/// Retrieval over unit features: images `[n, width]`, captions `[m, width]`, and for each caption
/// the image that it describes. Of equal similarities the lower index comes first.
pub fn retrieval(
    images: &[f32],
    captions: &[f32],
    image_of: &[usize],
    width: usize,
    protocol: Captions,
) -> Retrieval {
    let width = width.max(1);
    let n = images.len() / width;
    // The captions that take part, and each image's own among them.
    let mut used: Vec<usize> = Vec::new();
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (caption, &image) in image_of.iter().enumerate() {
        if image < n && (protocol == Captions::All || own[image].is_empty()) {
            own[image].push(used.len());
            used.push(caption);
        }
    }
    let images: Vec<&[f32]> = images.chunks_exact(width).collect();
    let captions: Vec<&[f32]> = used
        .iter()
        .map(|&c| &captions[c * width..(c + 1) * width])
        .collect();
    let asking: Vec<usize> = (0..n).filter(|&i| !own[i].is_empty()).collect();
    let of_images: Vec<&[f32]> = asking.iter().map(|&i| images[i]).collect();
    let to_text = ranks(&of_images, &captions, |q| &own[asking[q]]);
    let to_image = ranks(&captions, &images, |q| {
        let c = used[q];
        &image_of[c..=c]
    });
    Retrieval {
        image_to_text: recall(&to_text),
        text_to_image: recall(&to_image),
    }
}

/// For each query the rank of the best of its right candidates, `right(query)`.
fn ranks<'a>(
    queries: &[&[f32]],
    candidates: &[&[f32]],
    right: impl Fn(usize) -> &'a [usize] + Sync,
) -> Vec<usize> {
    // A block of queries stays in the cache while the candidates, far larger, pass by once.
    let of_block = |(block, queries): (usize, &[&[f32]])| {
        let mut scores = vec![0.0; queries.len() * candidates.len()];
        for (c, candidate) in candidates.iter().enumerate() {
            for (q, query) in queries.iter().enumerate() {
                scores[q * candidates.len() + c] = dot(query, candidate);
            }
        }
        scores
            .chunks_exact(candidates.len().max(1))
            .enumerate()
            .map(|(q, scores)| rank(scores, right(block * QUERIES + q)))
            .collect::<Vec<_>>()
    };
    let blocks = queries.par_chunks(QUERIES).enumerate();
    blocks.flat_map_iter(of_block).collect()
}

/// How many candidates come before the best of the `right` ones. A NaN score is never
/// found.
fn rank(scores: &[f32], right: &[usize]) -> usize {
    let best = right
        .iter()
        .copied()
        .filter(|&i| !scores[i].is_nan())
        .reduce(|best, i| if scores[i] > scores[best] { i } else { best });
    let Some(best) = best else {
        return usize::MAX;
    };
    let score = scores[best];
    let before = |(i, &s): (usize, &f32)| s > score || (s == score && i < best);
    scores.iter().enumerate().filter(|&c| before(c)).count()
}

fn recall(ranks: &[usize]) -> Recall {
    let at = |k| ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len().max(1) as f64;
    Recall {
        r1: at(1),
        r5: at(5),
        r10: at(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images, image 0 with two captions of which the first points at image 1.
    const IMAGES: [f32; 4] = [1.0, 0.0, 0.0, 1.0];
    const CAPTIONS: [f32; 6] = [0.6, 0.8, 1.0, 0.0, 0.0, 1.0];
    const OF: [usize; 3] = [0, 0, 1];

    #[test]
    fn first_caption_is_square() {
        let r = retrieval(&IMAGES, &CAPTIONS, &OF, 2, Captions::First);
        assert_eq!(r.image_to_text.r1, 1.0); // caption 0 is nearer to image 0 than caption 2
        assert_eq!(r.text_to_image.r1, 0.5);
        assert_eq!(r.text_to_image.r5, 1.0);
    }

    #[test]
    fn ranks() {
        let scores = [0.5, f32::NAN, 0.9, 0.5, 0.5];
        assert_eq!(rank(&scores, &[2]), 0);
        assert_eq!(rank(&scores, &[3]), 2);
        assert_eq!(rank(&scores, &[3, 4, 2]), 0);
        assert_eq!(rank(&scores, &[4, 0]), 3);
        assert_eq!(rank(&scores, &[1]), usize::MAX);
        assert_eq!(rank(&scores, &[1, 0]), 1);
    }

    #[test]
    fn all_captions_take_the_best() {
        let r = retrieval(&IMAGES, &CAPTIONS, &OF, 2, Captions::All);
        assert_eq!(r.image_to_text.r1, 1.0);
        assert!((r.text_to_image.r1 - 2.0 / 3.0).abs() < 1e-12);
    }
}
