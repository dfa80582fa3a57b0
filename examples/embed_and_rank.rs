//! Embeds an image and some texts, and ranks the texts by how well they fit.
//!
//! ```text
//! cargo run --release --example embed_and_rank                                       # an emoji of a style never trained on
//! cargo run --release --example embed_and_rank -- photo.png "a red apple" "a cat"    # your own
//! ```
//!
//! The model is the demonstration's teacher, which knows emoji at 32 × 32 pixels and little else. For another, see
//! [`io::load_clip`](clip_distill::io::load_clip).

use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::data::demo::{Split, shards};
use clip_distill::data::sample::ImageBytes;
use clip_distill::data::{Augment, DatasetOptions, ShardSource, Skips, Transform};
use clip_distill::data::{image, tokenizer, webdataset};
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::{ops, run::embedded};
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The encoded image of the concept `class` in the demonstration's held-out style.
fn emoji(class: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let shard = ShardSource::Memory {
        name: "twemoji.tar.gz".into(),
        bytes: shards(Split::Twemoji),
    };
    let mut found = None;
    let mut skips = Skips::default();
    webdataset::read(
        &shard,
        &DatasetOptions::default(),
        &mut skips,
        &mut |sample| match sample.image {
            ImageBytes::Bytes(bytes) if sample.class.as_deref() == Some(class) => {
                found = Some(bytes);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        },
    )?;
    found.ok_or_else(|| format!("no emoji is called {class}").into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bytes = match arguments.next() {
        Some(path) => std::fs::read(&path).map_err(|e| format!("{path}: {e}"))?,
        None => emoji("dog face")?,
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        let names = [
            "dog face",
            "cat face",
            "rocket",
            "pizza",
            "red heart",
            "bicycle",
        ];
        texts = names.map(|name| format!("an emoji of {name}")).to_vec();
    }

    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let teacher = embedded::teacher(backend.as_ref())?;
    let (clip, config) = (teacher.clip(), teacher.clip().config());
    // Nothing is recorded on a frozen tape: no gradient is wanted.
    let tape = Tape::frozen(backend.clone());
    let bound = teacher.parameters().bind(&tape);

    // The image: decoded, resized and cropped as in evaluation, normalised on the device.
    let transform = Transform::new(config.vision_cfg.image_size as u32, Augment::None)?;
    // Only augmentations draw from it.
    let mut rng = Philox::new(0, Purpose::Augment, 0, 0);
    let pixels = transform.pixels(&image::decode(&bytes)?, &mut rng);
    let shape = [1, pixels.height as usize, pixels.width as usize, 3];
    let images = backend.images(&shape, &pixels.pixels, &transform.normalisation())?;
    let image = ops::l2_normalize(&tape, &clip.encode_image(&tape, &bound, &images)?)?;

    // The texts: tokens from the start token to the end token, packed without padding.
    let text_cfg = &config.text_cfg;
    let tokens = tokenizer::for_captions(text_cfg.vocab_size, text_cfg.context_length)?;
    let tokens: Vec<Vec<i32>> = texts.iter().map(|text| tokens(text)).collect();
    let text = ops::l2_normalize(&tape, &clip.encode_text(&tape, &bound, &tokens)?)?;

    // Cosines, and the probabilities that the model's scale α makes of them.
    let scale = ops::exp(&tape, bound.var("logit_scale")?)?;
    let values = |x: &Var| backend.download(x.value());
    let (image, text, alpha) = (values(&image)?, values(&text)?, values(&scale)?[0]);
    let cosine = |row: &[f32]| row.iter().zip(&image).map(|(a, b)| a * b).sum::<f32>();
    let cosines: Vec<f32> = text.chunks_exact(config.embed_dim).map(cosine).collect();
    let total: f32 = cosines.iter().map(|c| (alpha * c).exp()).sum();
    let mut ranked: Vec<_> = cosines.iter().zip(&texts).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(a.0));
    for (cosine, text) in ranked {
        println!(
            "{:5.1} %  cosine {cosine:+.3}  {text}",
            100.0 * (alpha * cosine).exp() / total
        );
    }
    Ok(())
}
