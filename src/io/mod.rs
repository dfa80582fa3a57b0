//! Files of tensors: safetensors, and the maps between file layouts and ours.

mod clip;
mod error;
mod safetensors;
mod write;

pub use clip::{clip_from_entries, load_clip, save_clip};
pub use error::{Error, Result};
pub use safetensors::{Data, Entry, File, read, read_bytes};
pub use write::{Pending, write};
