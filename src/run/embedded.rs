//! What is inside the program: a small teacher, trained by this program (`embedded/teacher.toml`) on emoji artwork with
//! its names, the model of a smaller student, and the corpus.

use super::checkpoint;
use crate::backend::Backend;
use crate::data::demo::{self as corpus, Split};
use crate::data::{Dataset, DatasetOptions, ShardSource};
use crate::io;
use crate::model::{Clip, ClipConfig};
use crate::settings::error::{Error, Result, failed, input};
use crate::train::teacher::Teacher;
use std::path::Path;

const TEACHER: &[u8] = include_bytes!("embedded/teacher.safetensors");
const TEACHER_CONFIG: &str = include_str!("embedded/teacher.json");
const STUDENT_CONFIG: &str = include_str!("embedded/student.json");

/// The configuration of the demonstration's distillation.
pub const STUDENT_RUN: &str = include_str!("embedded/student.toml");

/// Configuration of the teacher inside the program.
pub fn teacher_config() -> Result<ClipConfig> {
    ClipConfig::from_json(TEACHER_CONFIG).map_err(input)
}

/// Configuration of the demonstration's student: `--model demo`.
pub fn student() -> Result<ClipConfig> {
    ClipConfig::from_json(STUDENT_CONFIG).map_err(input)
}

/// The teacher inside the program.
pub fn teacher(backend: &dyn Backend) -> Result<Teacher> {
    let clip = Clip::new(teacher_config()?);
    let name = Path::new("the teacher inside the program");
    let file = io::read_bytes(name, TEACHER).map_err(input)?;
    let parameters = io::clip_from_entries(name, file, &clip, backend).map_err(input)?;
    Teacher::new(clip, parameters, backend)
}

/// The corpus's training pairs.
pub fn training_pairs() -> Result<Dataset> {
    let options = DatasetOptions {
        cache: true,
        ..DatasetOptions::default()
    };
    let shard = ShardSource::Memory {
        name: format!("{}.tar.gz", Split::Train.name()),
        bytes: corpus::shards(Split::Train),
    };
    Dataset::from_shards(vec![shard], options).map_err(Error::from)
}

/// Writes the weights of a checkpoint as the program's teacher is stored: rounded to bf16.
///
/// # Errors
/// If the checkpoint does not fit the teacher's configuration, or the file cannot be written.
pub fn pack_teacher(checkpoint: &Path, out: &Path, backend: &dyn Backend) -> Result<()> {
    let clip = Clip::new(teacher_config()?);
    let weights = checkpoint.join(checkpoint::MODEL);
    let parameters = io::load_clip(&weights, &clip, backend).map_err(input)?;
    io::save_clip(out, &clip, &parameters, backend, true).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teacher_is_small() {
        assert!(TEACHER.len() < 4 << 20);
    }
}
