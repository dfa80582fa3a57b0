//! Images and their texts: decoding, transforms, shards, and the loader that makes batches of them.
//!
//! Everything a run draws at random here comes from [`crate::tensor::rng::Philox`], named by
//! (seed, purpose, epoch, sample), so that batches are the same whatever the number of threads.

mod bytes;
mod color_jitter;
mod counts;
pub mod csv;
pub mod dataset;
pub mod demo;
mod error;
mod fast_resize;
pub mod image;
pub mod loader;
mod options;
mod pairs;
pub mod pattern;
pub mod resize;
pub mod sample;
mod skips;
pub mod tokenizer;
pub mod transform;
pub mod webdataset;

pub use self::color_jitter::ColorJitter;
pub use self::counts::{CountCache, Counted};
pub use self::dataset::Dataset;
pub use self::error::{Error, Result};
pub use self::image::{Alpha, DecodeError, Decoding, RgbImage, Speed};
pub use self::loader::{Batch, Loader, LoaderConfig, Mode, Start, Tokenizer};
pub use self::options::{CaptionSource, DatasetOptions, IMAGE_KEYS, TEXT_KEYS, keys};
pub use self::pairs::{DatasetType, Pairs};
pub use self::pattern::ShardSource;
pub use self::sample::Stats;
pub use self::skips::{Cost, Seen, SkipKind, Skips};
pub use self::transform::{Augment, Transform};
