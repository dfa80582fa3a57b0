//! Reading PyTorch's fixtures.
#![allow(dead_code)] // each test crate uses a part

use clip_distill::io::{Data, Entry, File};
use std::path::{Path, PathBuf};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/torch")
        .join(name)
}

/// The tensors called `prefix…`, without the prefix.
pub fn part(file: &File, prefix: &str) -> File {
    let entries = file
        .entries
        .iter()
        .filter_map(|e| {
            Some(Entry {
                name: e.name.strip_prefix(prefix)?.into(),
                ..e.clone()
            })
        })
        .collect();
    File {
        entries,
        ..File::default()
    }
}

pub fn values<'a>(file: &'a File, name: &str) -> &'a [f32] {
    file.get(name)
        .and_then(Entry::as_f32)
        .unwrap_or_else(|| panic!("no f32 tensor {name}"))
}

/// NCHW as open_clip takes images, to NHWC.
pub fn channels_last(entry: &Entry) -> (Vec<usize>, Vec<f32>) {
    let &[n, c, h, w] = entry.shape.as_slice() else {
        panic!("image {:?}", entry.shape)
    };
    let from = entry.as_f32().expect("f32 images");
    let mut to = vec![0.0; from.len()];
    for i in 0..n {
        for ch in 0..c {
            for p in 0..h * w {
                to[(i * h * w + p) * c + ch] = from[(i * c + ch) * h * w + p];
            }
        }
    }
    (vec![n, h, w, c], to)
}

/// Padded rows cut after their first end token, the highest id.
pub fn texts(entry: &Entry) -> Vec<Vec<i32>> {
    let Data::I32(ids) = &entry.data else {
        panic!("ids are i32")
    };
    ids.chunks_exact(entry.shape[1])
        .map(|row| {
            let end = row.iter().max().expect("a token");
            let len = row.iter().position(|id| id == end).expect("an end token") + 1;
            row[..len].to_vec()
        })
        .collect()
}

pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0.0, f32::max);
    assert!(
        worst <= tolerance,
        "{what}: off by {worst:e}, allowed {tolerance:e}"
    );
}

pub fn max_abs(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}
