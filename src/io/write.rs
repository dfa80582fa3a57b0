//! Writing safetensors files tensor by tensor, so that a checkpoint is never in memory as a whole.

use super::{Data, Entry, Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// A tensor to be written: what the header says of it, and how to get its elements when its turn
/// comes.
pub struct Pending<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    data: Box<dyn FnOnce() -> Result<Data> + 'a>,
}

impl<'a> Pending<'a> {
    /// An f32 tensor.
    pub fn f32(
        name: impl Into<String>,
        shape: &[usize],
        data: impl FnOnce() -> Result<Vec<f32>> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            dtype: Dtype::F32,
            data: Box::new(|| data().map(Data::F32)),
        }
    }

    /// An f32 tensor, rounded to bf16 in the file.
    pub fn bf16(
        name: impl Into<String>,
        shape: &[usize],
        data: impl FnOnce() -> Result<Vec<f32>> + 'a,
    ) -> Self {
        let round = |v: Vec<f32>| v.into_iter().map(half::bf16::from_f32).collect();
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            dtype: Dtype::BF16,
            data: Box::new(move || data().map(round).map(Data::BF16)),
        }
    }
}

impl From<Entry> for Pending<'_> {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.name,
            shape: entry.shape,
            dtype: match entry.data {
                Data::F32(_) => Dtype::F32,
                Data::I32(_) => Dtype::I32,
                Data::I64(_) => Dtype::I64,
                Data::BF16(_) => Dtype::BF16,
            },
            data: Box::new(|| Ok(entry.data)),
        }
    }
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::I32(v) => bytemuck::cast_slice(v),
            Data::I64(v) => bytemuck::cast_slice(v),
            Data::BF16(v) => bytemuck::cast_slice(v),
        }
    }
}

/// Writes a file and waits until it is on the disk. Only one tensor at a time is on the host.
///
/// # Errors
/// If the disk is full, the path cannot be written, or a tensor's elements cannot be had or are not as
/// many as its shape says.
pub fn write(
    path: &Path,
    mut tensors: Vec<Pending>,
    metadata: &HashMap<String, String>,
) -> Result<()> {
    // The reference writer's order: the widest elements first, so that every tensor is aligned.
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = header(path, &tensors, metadata)?;
    let io = |e| Error::io(path, e);
    let mut file = File::create(path).map_err(io)?;
    let length = header.len() as u64;
    file.write_all(&length.to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for tensor in tensors {
        let expected = size(&tensor.shape, tensor.dtype);
        let data = (tensor.data)()?;
        let bytes = data.bytes();
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(malformed(
                path,
                format!("{}: {found} bytes, not {expected}", tensor.name),
            ));
        }
        file.write_all(bytes).map_err(io)?;
    }
    file.sync_all().map_err(io)
}

fn size(shape: &[usize], dtype: Dtype) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

fn malformed(path: &Path, detail: String) -> Error {
    Error::Format {
        path: path.into(),
        detail,
    }
}

/// The JSON header, filled up with spaces to a multiple of eight bytes.
fn header(path: &Path, tensors: &[Pending], metadata: &HashMap<String, String>) -> Result<Vec<u8>> {
    let mut offset = 0;
    let infos = tensors
        .iter()
        .map(|t| {
            let begin = offset;
            offset += size(&t.shape, t.dtype);
            let info = TensorInfo {
                dtype: t.dtype,
                shape: t.shape.clone(),
                data_offsets: (begin, offset),
            };
            (t.name.clone(), info)
        })
        .collect();
    let metadata = (!metadata.is_empty()).then(|| metadata.clone());
    let header = Metadata::new(metadata, infos).map_err(|e| malformed(path, e.to_string()))?;
    let mut json = serde_json::to_vec(&header).map_err(|e| malformed(path, e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let counter = Entry {
            name: "batches".into(),
            shape: vec![],
            data: Data::I64(vec![1 << 40]),
        };
        let tensors = vec![
            Pending::bf16("a", &[3], || Ok(vec![1.0, 2.0, 3.0])),
            Pending::f32("b", &[2, 1], || Ok(vec![0.1, -0.0])),
            counter.clone().into(),
        ];
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        write(&path, tensors, &metadata).unwrap();
        let file = read(&path).unwrap();
        assert_eq!(file.metadata, metadata);
        let want = [
            Entry::f32("a", &[3], vec![1.0, 2.0, 3.0]),
            Entry::f32("b", &[2, 1], vec![0.1, -0.0]),
            counter,
        ];
        assert_eq!(file.entries, want);
        // The reference writer makes the same bytes.
        let views = [("b", Dtype::F32, vec![2usize, 1], &file.entries[1].data)];
        let reference = views.map(|(name, dtype, shape, data)| {
            let view = safetensors::tensor::TensorView::new(dtype, shape, data.bytes()).unwrap();
            (name, view)
        });
        let reference = safetensors::serialize(reference, Some(metadata.clone())).unwrap();
        let again = vec![Pending::f32("b", &[2, 1], || Ok(vec![0.1, -0.0]))];
        write(&path, again, &metadata).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), reference);
    }

    #[test]
    fn a_wrong_number_of_elements_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let short = vec![Pending::f32("a", &[3], || Ok(vec![1.0]))];
        let error = write(&dir.path().join("x"), short, &HashMap::new()).unwrap_err();
        assert!(error.to_string().contains("a: 4 bytes, not 12"), "{error}");
    }
}
