//! CLIP models in open_clip's names and layouts.

use super::{Data, Entry, Error, File, Pending, Result, read, write};
use crate::backend::{Backend, Moments};
use crate::model::{BatchNorm, Clip, Parameters};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// A scalar in open_clip's files, `[1]` here.
const LOGIT_SCALE: &str = "logit_scale";

/// Permutes each of `out` filters of `pixels` between (channel, y, x) and (y, x, channel) order.
fn permute_filters(data: &[f32], out: usize, pixels: usize, to_channels_last: bool) -> Vec<f32> {
    let filter = data.len() / out.max(1);
    let channels = filter / pixels;
    let mut result = vec![0.0; data.len()];
    for (from, to) in data
        .chunks_exact(filter)
        .zip(result.chunks_exact_mut(filter))
    {
        for channel in 0..channels {
            for pixel in 0..pixels {
                let (first, last) = (channel * pixels + pixel, pixel * channels + channel);
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

/// A shape as the file has it: a convolution's `[out, side·side·in]` is `[out, in, side, side]` there.
fn file_shape(sides: &HashMap<String, usize>, name: &str, shape: &[usize]) -> Vec<usize> {
    match sides.get(name) {
        Some(&side) => vec![shape[0], shape[1] / (side * side), side, side],
        None if name == LOGIT_SCALE => vec![],
        None => shape.to_vec(),
    }
}

/// The names under which PyTorch keeps the running statistics of the BatchNorm called `norm`.
fn running_names(norm: &str) -> [String; 3] {
    ["running_mean", "running_var", "num_batches_tracked"].map(|n| format!("{norm}.{n}"))
}

/// Reads the parameters and running statistics of `clip` from a safetensors file in open_clip's names
/// and layouts.
///
/// # Errors
/// If the file cannot be read, or any tensor is missing, unexpected or misshapen: all are listed.
pub fn load_clip(path: &Path, clip: &Clip, backend: &dyn Backend) -> Result<Parameters> {
    clip_from_entries(path, read(path)?, clip, backend)
}

/// A file's tensors on their way into a model.
struct Unpacking {
    found: HashMap<String, Entry>,
    problems: Vec<String>,
}

impl Unpacking {
    fn take(&mut self, name: &str, want: &[usize]) -> Option<Entry> {
        let entry = self.found.remove(name);
        if entry.is_none() {
            self.problems.push(format!("missing {name} {want:?}"));
        }
        entry
    }

    /// The elements of the f32 tensor called `name`.
    fn f32s(&mut self, name: &str, want: &[usize]) -> Option<Vec<f32>> {
        let entry = self.take(name, want)?;
        // open_clip's logit_scale is a scalar; some exports store it as one element.
        let same = entry.shape == want || (want.is_empty() && entry.shape == [1]);
        match entry.data {
            Data::F32(data) if same => return Some(data),
            Data::F32(_) => self.problems.push(format!(
                "{name} is {:?} in the file, {want:?} in the model",
                entry.shape
            )),
            _ => self
                .problems
                .push(format!("{name} holds no floating-point numbers")),
        }
        None
    }

    /// The integer called `name`.
    fn integer(&mut self, name: &str) -> Option<i64> {
        match self.take(name, &[])?.data {
            Data::I64(v) if v.len() == 1 => return Some(v[0]),
            _ => self.problems.push(format!("{name} is no single integer")),
        }
        None
    }
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
    let entries = file.entries.into_iter();
    let mut unpacking = Unpacking {
        found: entries.map(|e| (e.name.clone(), e)).collect(),
        problems: Vec::new(),
    };
    let (expected, norms, sides) = (clip.parameter_shapes(), clip.norms(), clip.filter_sides());
    let running: Vec<String> = norms.iter().flat_map(|(n, _)| running_names(n)).collect();
    let parameters = expected.iter().map(|(n, _)| n.as_str());
    let names: HashSet<&str> = parameters
        .chain(running.iter().map(String::as_str))
        .collect();
    // open_clip keeps the causal mask as a buffer in some checkpoints; it holds nothing learned.
    let mut unexpected: Vec<&str> = unpacking
        .found
        .keys()
        .map(String::as_str)
        .filter(|n| !names.contains(n) && *n != "attn_mask")
        .collect();
    unexpected.sort_unstable();
    unpacking.problems = unexpected
        .iter()
        .map(|n| format!("unexpected {n}"))
        .collect();
    let mut parameters = Parameters::default();
    for (name, shape) in &expected {
        let Some(mut data) = unpacking.f32s(name, &file_shape(&sides, name, shape)) else {
            continue;
        };
        if let Some(side) = sides.get(name) {
            data = permute_filters(&data, shape[0], side * side, true);
        }
        parameters.push(name.clone(), backend.upload(shape, &data)?);
    }
    for (norm, channels) in &norms {
        let [mean, variance, batches] = running_names(norm);
        let mean = unpacking.f32s(&mean, &[*channels]);
        let variance = unpacking.f32s(&variance, &[*channels]);
        let batches = unpacking.integer(&batches);
        if let (Some(mean), Some(variance), Some(batches)) = (mean, variance, batches) {
            let running = Moments {
                mean: backend.upload(&[*channels], &mean)?,
                variance: backend.upload(&[*channels], &variance)?,
            };
            parameters.set_norm(norm, BatchNorm { running, batches });
        }
    }
    if unpacking.problems.is_empty() {
        Ok(parameters)
    } else {
        Err(Error::Mismatch {
            path: path.into(),
            problems: unpacking.problems,
        })
    }
}

/// Writes the parameters and running statistics of `clip` in open_clip's names and layouts, parameters
/// as f32 or rounded to bf16. Parameters that are not the model's (loss heads) are left out.
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
    let missing = |name: &str| Error::Mismatch {
        path: path.into(),
        problems: vec![format!("missing {name}")],
    };
    let sides = clip.filter_sides();
    let mut tensors: Vec<Pending> = Vec::new();
    for (name, shape) in clip.parameter_shapes() {
        let tensor = &parameters.get(&name).ok_or_else(|| missing(&name))?.tensor;
        let side = sides.get(&name).copied();
        let in_file = file_shape(&sides, &name, &shape);
        let data = move || {
            let data = backend.download(tensor)?;
            Ok(match side {
                Some(side) => permute_filters(&data, shape[0], side * side, false),
                None => data,
            })
        };
        tensors.push(match bf16 {
            true => Pending::bf16(name, &in_file, data),
            false => Pending::f32(name, &in_file, data),
        });
    }
    for (name, channels) in clip.norms() {
        let norm = parameters.norm(&name).ok_or_else(|| missing(&name))?;
        let [mean, variance, batches] = running_names(&name);
        for (name, tensor) in [
            (mean, &norm.running.mean),
            (variance, &norm.running.variance),
        ] {
            let data = || Ok(backend.download(tensor)?);
            tensors.push(Pending::f32(name, &[channels], data));
        }
        let counter = Entry {
            name: batches,
            shape: vec![],
            data: Data::I64(vec![norm.batches]),
        };
        tensors.push(counter.into());
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write(path, tensors, &metadata)
}
