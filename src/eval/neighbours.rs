//! Nearest neighbours among images, under several models side by side.

use super::dot;
use super::error::{Error, Result, input};
use super::features::{Loading, Model};
use super::sets::EvalSet;
use crate::data::resize::resize;
use crate::data::sample::Sample;
use crate::data::{Augment, RgbImage, Transform};
use crate::tensor::rng::{Philox, Purpose};
use ::image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// At most this many images of a set are candidates: each costs a pass through every model.
const GALLERY: usize = 1000;
/// Images whose neighbours are shown.
const QUERIES: usize = 8;
/// Neighbours of each.
const NEAREST: usize = 5;
/// Side of a picture at most, in pixels.
const SIDE: u32 = 96;
/// Sides up to which pictures are kept without loss: small drawings, whose edges JPEG would smear.
const LOSSLESS: u32 = 64;
/// JPEG's quality, of 100.
const QUALITY: u8 = 80;

/// A small image in a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// As a `data:` address.
    pub uri: String,
    /// The image's first caption, else its class, else its name.
    pub caption: String,
}

/// An image near to a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Near {
    /// The image.
    pub picture: Picture,
    /// Cosine of its feature and the query's.
    pub similarity: f32,
    /// Whether it is among the query's nearest under the first model, too.
    pub shared: bool,
}

/// An image and what is near to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The image.
    pub picture: Picture,
    /// Its five nearest, nearest first, under each model.
    pub nearest: Vec<Vec<Near>>,
}

/// The neighbourhoods of a few images of a set under several models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Name of the set.
    pub set: String,
    /// How many of its images are candidates.
    pub gallery: usize,
    /// The models' names.
    pub models: Vec<String>,
    /// For each model the share of an image's five nearest under the first model that it finds among
    /// its own five, averaged over all candidates.
    pub agreement: Vec<f64>,
    /// The images shown.
    pub queries: Vec<Query>,
}

/// Draws, by `seed`, up to 1000 images of `set` as candidates and eight of them as queries, and finds
/// the five nearest of each under every one of `models`, by the cosine of their image features.
///
/// # Errors
/// If fewer than two images can be used, the models take images of different sizes, or a device fails.
pub fn neighbours(
    set: &EvalSet,
    models: &[(&str, Model)],
    loading: &Loading,
    seed: u64,
) -> Result<Neighbours> {
    let size_of = |m: &Model| m.clip.config().vision_cfg.image_size;
    let sizes: Vec<usize> = models.iter().map(|(_, m)| size_of(m)).collect();
    let Some(&size) = sizes.first().filter(|s| sizes.iter().all(|t| t == *s)) else {
        return input(format!("neighbours: models take images of {sizes:?} px"));
    };
    let transform = Transform::new(u32::try_from(size).unwrap_or(u32::MAX), Augment::None)?
        .normalised_by(loading.normalisation)?;
    let mut rng = Philox::new(seed, Purpose::Pictures, 0, 0);
    let drawn = set.dataset.draw(GALLERY, &mut rng)?;
    let mut gallery: Vec<Arc<Sample>> = Vec::new();
    let mut features = vec![Vec::new(); models.len()];
    for chunk in drawn.chunks(loading.batch_size.max(1)) {
        let decoded: Vec<Option<Vec<u8>>> = chunk
            .par_iter()
            .map(|sample| {
                let mut none = Philox::new(0, Purpose::Pictures, 0, 0);
                let image = sample.pixels(set.dataset.decoding(), false).ok()?;
                Some(transform.pixels(&image, &mut none).pixels)
            })
            .collect();
        let usable = chunk.iter().zip(&decoded).filter(|(_, d)| d.is_some());
        gallery.extend(usable.map(|(sample, _)| sample.clone()));
        let pixels: Vec<u8> = decoded.into_iter().flatten().flatten().collect();
        if pixels.is_empty() {
            continue;
        }
        for ((_, model), features) in models.iter().zip(&mut features) {
            features.extend(model.embed_images(&pixels, &loading.normalisation)?);
        }
    }
    if gallery.len() < 2 {
        return input(format!("{}: fewer than two usable images", set.name));
    }
    let nearest: Vec<Vec<Vec<(usize, f32)>>> = models
        .iter()
        .zip(&features)
        .map(|((_, model), features)| nearest(features, model.width()))
        .collect();
    let mut order: Vec<usize> = (0..gallery.len()).collect();
    rng.shuffle(&mut order);
    let show = |i: usize| picture(set, &gallery[i], &transform);
    let query = |&i: &usize| -> Result<Query> {
        let near = |own: &Vec<Vec<(usize, f32)>>| {
            let one = |&(j, similarity): &(usize, f32)| {
                Ok(Near {
                    picture: show(j)?,
                    similarity,
                    shared: nearest[0][i].iter().any(|(k, _)| *k == j),
                })
            };
            own[i].iter().map(one).collect::<Result<_>>()
        };
        Ok(Query {
            picture: show(i)?,
            nearest: nearest.iter().map(near).collect::<Result<_>>()?,
        })
    };
    Ok(Neighbours {
        set: set.name.clone(),
        gallery: gallery.len(),
        models: models.iter().map(|(name, _)| name.to_string()).collect(),
        agreement: nearest
            .iter()
            .map(|own| agreement(&nearest[0], own))
            .collect(),
        queries: order
            .iter()
            .take(QUERIES)
            .map(query)
            .collect::<Result<_>>()?,
    })
}

/// For each row of the unit features `[n, width]` the nearest others with their cosines, nearest first;
/// of equal ones the lower index.
fn nearest(features: &[f32], width: usize) -> Vec<Vec<(usize, f32)>> {
    let rows: Vec<&[f32]> = features.chunks_exact(width.max(1)).collect();
    let of = |(i, row): (usize, &&[f32])| {
        let mut others: Vec<(usize, f32)> = rows
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .map(|(j, other)| (j, dot(row, other)))
            .collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        others.truncate(NEAREST);
        others
    };
    rows.par_iter().enumerate().map(of).collect()
}

/// Share of the neighbours in `wanted` that `found` has as well.
fn agreement(wanted: &[Vec<(usize, f32)>], found: &[Vec<(usize, f32)>]) -> f64 {
    let both = wanted.iter().zip(found).map(|(wanted, found)| {
        let within = |(i, _): &&(usize, f32)| found.iter().any(|(j, _)| j == i);
        wanted.iter().filter(within).count()
    });
    let all: usize = wanted.iter().map(Vec::len).sum();
    both.sum::<usize>() as f64 / all.max(1) as f64
}

/// A sample as the models see it, made small.
fn picture(set: &EvalSet, sample: &Sample, transform: &Transform) -> Result<Picture> {
    let decoded = sample.pixels(set.dataset.decoding(), false);
    let image = decoded.map_err(|(_, reason)| Error::Failed(reason))?;
    let mut none = Philox::new(0, Purpose::Pictures, 0, 0);
    let mut image = transform.pixels(&image, &mut none);
    if image.width > SIDE {
        image = resize(&image, SIDE, SIDE);
    }
    let class = || {
        let class = sample.class.as_deref()?;
        let classes = set.classes.as_ref()?;
        let candidate = classes.label(Some(class)).ok()?;
        let name = classes.subset.as_ref().map_or(candidate, |s| s[candidate]);
        classes.set.names().get(name).cloned()
    };
    let caption = sample.captions.first().cloned().or_else(class);
    Ok(Picture {
        uri: data_uri(&image)?,
        caption: caption.unwrap_or_else(|| sample.key.clone()),
    })
}

/// The image within a `data:` address.
fn data_uri(image: &RgbImage) -> Result<String> {
    let mut bytes = Vec::new();
    let (pixels, width, height) = (&image.pixels, image.width, image.height);
    let rgb = ExtendedColorType::Rgb8;
    let (kind, written) = if width.max(height) <= LOSSLESS {
        let encoder = PngEncoder::new(&mut bytes);
        ("png", encoder.write_image(pixels, width, height, rgb))
    } else {
        let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
        ("jpeg", encoder.write_image(pixels, width, height, rgb))
    };
    written.map_err(|e| Error::Failed(format!("a picture cannot be encoded: {e}")))?;
    Ok(format!(
        "data:image/{kind};base64,{}",
        STANDARD.encode(bytes)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, cpu::Cpu};
    use crate::data::image::decode;
    use crate::eval::{Protocols, demo_sets};
    use crate::model::{Clip, ClipConfig};

    #[test]
    fn the_nearest_come_first_without_the_image_itself() {
        // Angles of 0°, 10°, 90°, −20° and 10° again.
        let unit = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let features: Vec<f32> = [0.0, 10.0, 90.0, -20.0, 10.0].map(unit).concat();
        let found = nearest(&features, 2);
        let order = |i: usize| found[i].iter().map(|n| n.0).collect::<Vec<_>>();
        assert_eq!(order(0), [1, 4, 3, 2]);
        assert_eq!(order(2), [1, 4, 0, 3]);
        assert_eq!(order(4), [1, 0, 3, 2]);
        assert!((found[0][3].1).abs() < 1e-6);
    }

    #[test]
    fn agreement_is_a_share_of_the_first_models_neighbours() {
        let of = |rows: [[usize; 2]; 2]| rows.map(|r| r.map(|i| (i, 0.5)).to_vec());
        let wanted = of([[1, 2], [3, 4]]);
        assert_eq!(agreement(&wanted, &wanted), 1.0);
        assert_eq!(agreement(&wanted, &of([[2, 9], [5, 6]])), 0.25);
    }

    #[test]
    fn pictures_are_png_where_small_and_jpeg_where_large() {
        for (side, kind) in [(32, "png"), (96, "jpeg")] {
            let image = RgbImage::filled(side, side, [200, 30, 90]);
            let uri = data_uri(&image).unwrap();
            let (head, body) = uri.split_once(',').unwrap();
            assert_eq!(head, format!("data:image/{kind};base64"));
            let again = decode(&STANDARD.decode(body).unwrap()).unwrap();
            assert_eq!((again.width, again.height), (side, side));
            let far = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 4;
            assert!(!again.pixels.iter().zip(&image.pixels).any(far));
        }
    }

    #[test]
    fn models_are_shown_side_by_side() {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let json = r#"{"embed_dim": 8,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}}"#;
        let clip = Clip::new(ClipConfig::from_json(json).unwrap());
        let init = |seed| clip.init(backend.as_ref(), seed).unwrap();
        let (one, two) = (init(1), init(2));
        let model = |parameters| Model {
            backend: &backend,
            clip: &clip,
            parameters,
        };
        let models = [
            ("one", model(&one)),
            ("two", model(&two)),
            ("again", model(&one)),
        ];
        let set = &demo_sets(Protocols::First).unwrap()[0];
        let run = |seed| neighbours(set, &models, &Loading::default(), seed).unwrap();
        let found = run(3);
        assert_eq!((found.set.as_str(), found.gallery), ("demo-twemoji", 944));
        assert_eq!(found.models, ["one", "two", "again"]);
        assert_eq!((found.agreement[0], found.agreement[2]), (1.0, 1.0));
        assert!(
            (0.005..0.9).contains(&found.agreement[1]),
            "{:?}",
            found.agreement
        );
        assert_eq!(found.queries.len(), QUERIES);
        for query in &found.queries {
            assert_eq!(query.nearest.len(), 3);
            assert_eq!(query.nearest[0], query.nearest[2]);
            for near in &query.nearest {
                assert_eq!(near.len(), NEAREST);
                assert!(near.is_sorted_by(|a, b| a.similarity >= b.similarity));
                assert!(near.iter().all(|n| n.picture.uri != query.picture.uri));
            }
            assert!(query.nearest[0].iter().all(|n| n.shared));
        }
        assert_eq!(run(3), found);
        assert_ne!(run(4).queries, found.queries);
    }
}
