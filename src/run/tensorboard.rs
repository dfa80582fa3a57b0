//! TensorBoard's event files, written by hand: what a scalar needs is a few protobuf fields.
//!
//! A file is a sequence of TFRecords, all numbers little-endian:
//!
//! ```text
//! length u64 | masked CRC-32C of those 8 bytes u32 | record | masked CRC-32C of the record u32
//! mask(c) = rotate_right(c, 15) + 0xa282ead8  (mod 2³²)
//! ```
//! and a record is an `Event` (tensorflow/core/util/event.proto and summary.proto):
//!
//! ```text
//! Event      { double wall_time = 1; int64 step = 2;
//!              string file_version = 3 | Summary summary = 5 | SessionLog session_log = 7 }
//! Summary    { repeated Value value = 1 }      Value { string tag = 1; float simple_value = 2 }
//! SessionLog { SessionStatus status = 1 }      START = 1
//! ```
//! A resumed run begins another file, whose `START` at the first new step tells
//! TensorBoard to forget the steps from there on that older files hold. Checked by hand with TensorBoard
//! 2.21.0, its `EventAccumulator` and its data server: after a resume no step is there twice.
//!
//! Tags are open_clip's where it has them: `train/loss`, `train/contrastive_loss`, `train/lr`, `train/scale`,
//! `train/samples_per_second`, `val/` and the metric's name.

use crate::settings::error::{Result, file};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Which line of the log the values are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of metrics.jsonl.
    Train,
    /// Of results.jsonl.
    Evaluation,
}

/// A run's event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Begins a new file in `folder` for a run that has done `step` steps.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| file("create", folder, &e))?;
        let now = wall_time();
        // TensorBoard reads a run's files in the order of their names: seconds first, and a counter for
        // those of one second.
        let mut number = 0;
        let (path, handle) = loop {
            let name = format!(
                "events.out.tfevents.{:010}.clip-distill.{number:04}",
                now as u64
            );
            let path = folder.join(name);
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(handle) => break (path, handle),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(file("create", &path, &e)),
            }
        };
        let mut writer = Self { path, file: handle };
        writer.write(&event(now, 0, |e| string(e, 3, "brain.Event:2")))?;
        if step > 0 {
            let start = |e: &mut Vec<u8>| message(e, 7, |log| varint_field(log, 1, 1));
            writer.write(&event(now, step + 1, start))?;
        }
        Ok(writer)
    }

    /// Writes the numbers of a log line as scalars of its `step`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalars(&mut self, step: u64, kind: Kind, line: &Map<String, Value>) -> Result<()> {
        let mut values = Vec::new();
        for (key, value) in line {
            if let (Some(tag), Some(x)) = (tag(kind, key), value.as_f64()) {
                message(&mut values, 1, |value| {
                    string(value, 1, &tag);
                    value.push(2 << 3 | 5);
                    value.extend((x as f32).to_le_bytes());
                });
            }
        }
        self.write(&event(wall_time(), step, |e| bytes(e, 5, &values)))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file
            .write_all(&framed(event))
            .map_err(|e| file("write", &self.path, &e))
    }
}

/// The tag of a log line's key; `None` for what is no scalar of its own.
fn tag(kind: Kind, key: &str) -> Option<String> {
    if key == "step" {
        return None;
    }
    let name = match (kind, key) {
        (Kind::Evaluation, "epoch") => return None,
        (Kind::Evaluation, name) => return Some(format!("val/{name}")),
        (Kind::Train, "loss_clip") => "contrastive_loss".into(),
        (Kind::Train, "samples_per_s") => "samples_per_second".into(),
        (Kind::Train, key) => match key.strip_prefix("loss_") {
            Some(term) => format!("{term}_loss"),
            None => key.to_string(),
        },
    };
    Some(format!("train/{name}"))
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |d| d.as_secs_f64())
}

fn event(wall_time: f64, step: u64, what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(wall_time.to_le_bytes());
    varint_field(&mut event, 2, step);
    what(&mut event);
    event
}

fn varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u8, x: u64) {
    out.push(field << 3);
    varint(out, x);
}

fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn string(out: &mut Vec<u8>, field: u8, text: &str) {
    bytes(out, field, text.as_bytes());
}

fn message(out: &mut Vec<u8>, field: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    fill(&mut content);
    bytes(out, field, &content);
}

/// A record with its length and checksums.
fn framed(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(mask(crc32c(&length)).to_le_bytes());
    out.extend(record);
    out.extend(mask(crc32c(record)).to_le_bytes());
    out
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): the polynomial 0x1EDC6F41, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| {
        TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 3720, B.4, and the usual check value.
    #[test]
    fn checksums() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        let falling: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&falling), 0x113f_db5c);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// The records of a file, checked.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let Some((length, rest)) = file.split_first_chunk::<8>() {
            let n = u64::from_le_bytes(*length) as usize;
            let crc = |bytes: &[u8]| mask(crc32c(bytes)).to_le_bytes();
            assert_eq!(rest[..4], crc(length));
            let record = &rest[4..4 + n];
            assert_eq!(rest[4 + n..8 + n], crc(record));
            out.push(record.to_vec());
            file = &rest[8 + n..];
        }
        assert!(file.is_empty());
        out
    }

    #[test]
    fn events_are_those_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let line = json!({"step": 300, "loss": 0.5, "loss_clip": -2.0, "epoch": null});
        let mut writer = EventWriter::create(dir.path(), 0).unwrap();
        let object = line.as_object().unwrap();
        writer.scalars(300, Kind::Train, object).unwrap();
        let found = records(&fs::read(&writer.path).unwrap());
        assert_eq!(found.len(), 2);
        // Fields 1 (double), 2 (varint 0) and 3 (13 bytes).
        assert_eq!(found[0][0], 0x09);
        assert_eq!(found[0][9..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        // Step 300 as a varint, a summary of 19 + 31 bytes, and in it a value for each tag.
        let mut want = b"\x10\xac\x02\x2a\x32".to_vec();
        want.extend(b"\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x00\x3f");
        want.extend(b"\x0a\x1d\x0a\x16train/contrastive_loss\x15\x00\x00\x00\xc0");
        assert_eq!(found[1][9..], want);
        // The same second, another file, which begins after step 300.
        let other = EventWriter::create(dir.path(), 300).unwrap();
        assert!(other.path > writer.path);
        let found = records(&fs::read(&other.path).unwrap());
        assert_eq!(found[1][9..], *b"\x10\xad\x02\x3a\x02\x08\x01");
    }

    #[test]
    fn tags_are_open_clips() {
        let of = |kind, key| tag(kind, key).unwrap_or_default();
        assert_eq!(of(Kind::Train, "loss"), "train/loss");
        assert_eq!(of(Kind::Train, "lr"), "train/lr");
        assert_eq!(of(Kind::Train, "loss_clip"), "train/contrastive_loss");
        assert_eq!(of(Kind::Train, "loss_intra"), "train/intra_loss");
        let metric = "imagenet-zeroshot-val-top1";
        assert_eq!(of(Kind::Evaluation, metric), format!("val/{metric}"));
        assert_eq!(tag(Kind::Evaluation, "epoch"), None);
    }
}
