//! Images and their texts: decoding, transforms, shards, and the loader that makes batches of them.
//!
//! Everything a run draws at random here comes from [`crate::tensor::rng::Philox`], named by
//! (seed, purpose, epoch, sample), so that batches are the same whatever the number of threads.

mod color_jitter;
pub mod csv;
pub mod dataset;
pub mod demo;
mod error;
pub mod image;
pub mod loader;
mod options;
pub mod pattern;
pub mod resize;
pub mod sample;
pub mod tokenizer;
pub mod transform;
pub mod webdataset;

pub use self::color_jitter::ColorJitter;
pub use self::dataset::Dataset;
pub use self::error::{Error, Result};
pub use self::image::{Alpha, DecodeError, Decoding, RgbImage, Speed};
pub use self::loader::{Batch, Loader, LoaderConfig, Mode, Tokenizer};
pub use self::options::DatasetOptions;
pub use self::pattern::ShardSource;
pub use self::sample::{SkipKind, Skips, Stats};
pub use self::transform::{Augment, Transform};
