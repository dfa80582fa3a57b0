//! Named tensors of safetensors files, on the host, and reading them.

use super::{Error, Result};
use ::safetensors::tensor::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// Elements of a tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// f32, or half precision widened on reading.
    F32(Vec<f32>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers, PyTorch's counters.
    I64(Vec<i64>),
    /// bfloat16 bits, written as they are.
    BF16(Vec<half::bf16>),
}

/// A named tensor of a file, in the file's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

impl Entry {
    /// An f32 tensor.
    pub fn f32(name: impl Into<String>, shape: &[usize], data: Vec<f32>) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            data: Data::F32(data),
        }
    }

    /// Its elements as f32, if they are.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let Data::F32(v) = &self.data {
            Some(v)
        } else {
            None
        }
    }
}

/// A file's tensors and its metadata.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Tensors in the order of their names.
    pub entries: Vec<Entry>,
    /// The header's `__metadata__`.
    pub metadata: HashMap<String, String>,
}

impl File {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}

/// Reads a whole file. bf16 and f16 are widened to f32.
///
/// # Errors
/// If it cannot be read, is malformed, or holds another element type.
pub fn read(path: &Path) -> Result<File> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
        return Err(Error::Format {
            path: path.into(),
            detail: "the file is empty".into(),
        });
    }
    // SAFETY: the map is only read, and copied out before this returns; a file truncated by
    // someone else meanwhile is outside what any reader of mapped files can guard against.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    read_bytes(path, &map)
}

/// As [`read`] from memory; `path` is only for messages.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<File> {
    let format = |detail: String| Error::Format {
        path: path.into(),
        detail,
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| format(e.to_string()))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| format(e.to_string()))?;
    let mut entries = Vec::new();
    for (name, view) in tensors.iter() {
        let raw = view.data();
        let data = match view.dtype() {
            Dtype::F32 => Data::F32(words(raw, f32::from_le_bytes)),
            Dtype::I32 => Data::I32(words(raw, i32::from_le_bytes)),
            Dtype::I64 => Data::I64(words(raw, i64::from_le_bytes)),
            Dtype::BF16 => Data::F32(words(raw, |b| half::bf16::from_le_bytes(b).to_f32())),
            Dtype::F16 => Data::F32(words(raw, |b| half::f16::from_le_bytes(b).to_f32())),
            other => return Err(format(format!("tensor {name} has element type {other:?}"))),
        };
        entries.push(Entry {
            name: name.to_owned(),
            shape: view.shape().to_vec(),
            data,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(File { entries, metadata })
}

fn words<const N: usize, T>(raw: &[u8], word: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&b| word(b)).collect()
}
