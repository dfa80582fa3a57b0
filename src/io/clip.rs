//! CLIP models in open_clip's names and layouts.

use super::{Data, Entry, Error, File, Result, read, write};
use crate::backend::Backend;
use crate::model::{Clip, Parameters};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The tensor whose layout differs: open_clip `[width, 3, p, p]`, here `[width, p·p·3]`.
const PATCH_EMBED: &str = "visual.conv1.weight";

/// A scalar in open_clip's files, `[1]` here.
const LOGIT_SCALE: &str = "logit_scale";

/// Permutes each of `out` filters between (channel, y, x) and (y, x, channel) order.
fn permute_filters(data: &[f32], out: usize, to_channels_last: bool) -> Vec<f32> {
    let filter = data.len() / out.max(1);
    let pixels = filter / 3;
    let mut result = vec![0.0; data.len()];
    for (from, to) in data
        .chunks_exact(filter)
        .zip(result.chunks_exact_mut(filter))
    {
        for channel in 0..3 {
            for pixel in 0..pixels {
                let (first, last) = (channel * pixels + pixel, pixel * 3 + channel);
                if to_channels_last {
                    to[last] = from[first];
                } else {
                    to[first] = from[last];
                }
            }
        }
    }
    result
}

/// A shape as the file has it.
fn file_shape(clip: &Clip, name: &str, shape: &[usize]) -> Vec<usize> {
    let p = clip.config().vision_cfg.patch_size;
    match name {
        PATCH_EMBED => vec![shape[0], 3, p, p],
        LOGIT_SCALE => vec![],
        _ => shape.to_vec(),
    }
}

/// Reads the parameters of `clip` from a safetensors file in open_clip's names and layouts.
///
/// # Errors
/// If the file cannot be read, or any tensor is missing, unexpected or misshapen: all are listed.
pub fn load_clip(path: &Path, clip: &Clip, backend: &dyn Backend) -> Result<Parameters> {
    clip_from_entries(path, read(path)?, clip, backend)
}

/// As [`load_clip`] from tensors already read; `path` is only for messages.
///
/// # Errors
/// As [`load_clip`].
pub fn clip_from_entries(
    path: &Path,
    file: File,
    clip: &Clip,
    backend: &dyn Backend,
) -> Result<Parameters> {
    let mut problems = Vec::new();
    let mut found: HashMap<String, Entry> = file
        .entries
        .into_iter()
        .map(|e| (e.name.clone(), e))
        .collect();
    let mut parameters = Parameters::default();
    let expected = clip.parameter_shapes();
    let names: HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
    // open_clip keeps the causal mask as a buffer in some checkpoints; it holds nothing learned.
    let mut unexpected: Vec<&str> = found
        .keys()
        .map(String::as_str)
        .filter(|n| !names.contains(n) && *n != "attn_mask")
        .collect();
    unexpected.sort_unstable();
    problems.extend(unexpected.iter().map(|n| format!("unexpected {n}")));
    for (name, shape) in &expected {
        let want = file_shape(clip, name, shape);
        let Some(entry) = found.remove(name) else {
            problems.push(format!("missing {name} {want:?}"));
            continue;
        };
        // open_clip's logit_scale is a scalar; some exports store it as one element.
        let same = entry.shape == want || (want.is_empty() && entry.shape == [1]);
        match entry.data {
            Data::F32(data) if same => {
                let data = if name == PATCH_EMBED {
                    permute_filters(&data, shape[0], true)
                } else {
                    data
                };
                parameters.push(name.clone(), backend.upload(shape, &data)?);
            }
            Data::F32(_) => problems.push(format!(
                "{name} is {:?} in the file, {want:?} in the model",
                entry.shape
            )),
            _ => problems.push(format!("{name} holds no floating-point numbers")),
        }
    }
    if problems.is_empty() {
        Ok(parameters)
    } else {
        Err(Error::Mismatch {
            path: path.into(),
            problems,
        })
    }
}

/// Writes the parameters of `clip` in open_clip's names and layouts, as f32 or rounded to bf16.
/// Parameters that are not the model's (loss heads) are left out.
///
/// # Errors
/// If the file cannot be written.
pub fn save_clip(
    path: &Path,
    clip: &Clip,
    parameters: &Parameters,
    backend: &dyn Backend,
    bf16: bool,
) -> Result<()> {
    let mut entries = Vec::new();
    for (name, shape) in clip.parameter_shapes() {
        let Some(parameter) = parameters.get(&name) else {
            let problems = vec![format!("missing {name}")];
            return Err(Error::Mismatch {
                path: path.into(),
                problems,
            });
        };
        let mut data = backend.download(&parameter.tensor)?;
        if name == PATCH_EMBED {
            data = permute_filters(&data, shape[0], false);
        }
        let data = if bf16 {
            Data::BF16(data.into_iter().map(half::bf16::from_f32).collect())
        } else {
            Data::F32(data)
        };
        let shape = file_shape(clip, &name, &shape);
        entries.push(Entry { name, shape, data });
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write(path, &entries, &metadata)
}
