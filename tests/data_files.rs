//! Shards and tables are read as webdataset, open_clip and pandas read them: `tests/fixtures/shards.py` wrote the
//! files, and beside them what those read. Where this program reads more, or refuses, it is said here why.

use clip_distill::data::csv::CsvOptions;
use clip_distill::data::{
    Augment, CaptionSource, Dataset, DatasetOptions, DatasetType, Loader, LoaderConfig, Mode,
    Pairs, SkipKind, Skips, Start, Transform,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Read = Vec<(String, String)>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shards")
}

fn expected(of: &str) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let part = all[of].as_object().unwrap();
    part.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn pairs_of(value: &Value) -> Option<Read> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let rows = value.as_array()?.iter();
    Some(rows.map(|row| (text(&row[0]), text(&row[1]))).collect())
}

/// Keys and first captions, in order, and what was skipped or noted.
fn read(name: &str, options: DatasetOptions) -> Result<(Read, Skips), String> {
    let csv = CsvOptions::default();
    let path = folder().join(name).display().to_string();
    let pairs = Pairs::named(&path, DatasetType::Auto, None, &csv).map_err(|e| e.to_string())?;
    let dataset = pairs.open(&csv, None, options).map_err(|e| e.to_string())?;
    Ok(all(Arc::new(dataset)))
}

fn all(dataset: Arc<Dataset>) -> (Read, Skips) {
    let read = Arc::new(std::sync::Mutex::new(Vec::new()));
    let texts = read.clone();
    let config = LoaderConfig {
        dataset,
        batch_size: 4,
        seed: 0,
        length: None,
        shuffle_buffer: 0,
        mode: Mode::Evaluate,
        workers: 1,
        prefetch: 1,
        transform: Transform::new(1, Augment::None).unwrap(),
        tokenizer: Arc::new(move |text| {
            texts.lock().unwrap().push(text.to_owned());
            Vec::new()
        }),
    };
    let mut loader = Loader::new(config, Start::default(), 0).unwrap();
    let mut pairs = Vec::new();
    for batch in loader.by_ref() {
        let batch = batch.unwrap();
        pairs.extend(batch.keys.into_iter().zip(batch.captions));
    }
    (pairs, loader.stats().skips)
}

#[test]
fn shards_are_read_as_webdataset_and_open_clip_read_them() {
    let counts: [(&str, &[(SkipKind, u64)]); 6] = [
        ("empty_text.tar", &[(SkipKind::EmptyCaption, 1)]),
        ("two_lines.tar", &[(SkipKind::SeveralLines, 2)]),
        (
            "python_json.tar",
            &[
                (SkipKind::EmptyCaption, 1),
                (SkipKind::MalformedJson, 1),
                (SkipKind::LenientJson, 6),
            ],
        ),
        (
            "dots.tar",
            &[
                (SkipKind::MissingImage, 1),
                (SkipKind::DottedName, 2),
                (SkipKind::UnusedEntry, 1),
            ],
        ),
        ("underscores.tar", &[]),
        ("repeated.tar", &[]),
    ];
    let mut seen = 0;
    for (name, value) in expected("shards") {
        let mut options = DatasetOptions::default();
        if name == "python_json.tar" {
            options.captions = CaptionSource::Json {
                keys: vec!["caption".into()],
                weights: Vec::new(),
            };
        }
        let (found, skips) = read(&name, options).unwrap();
        assert_eq!(found, pairs_of(&value).unwrap(), "{name}");
        if let Some((_, counts)) = counts.iter().find(|(n, _)| *n == name) {
            let of: Vec<_> = skips.iter().map(|(kind, n, _)| (kind, n)).collect();
            assert_eq!(of, *counts, "{name}: {skips}");
        }
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
}

/// The image key that names the members of a shard with dots in its names finds the pair.
#[test]
fn keys_with_dots_can_be_named() {
    let options = DatasetOptions {
        image_keys: vec!["input.jpg".into()],
        ..DatasetOptions::default()
    };
    let (found, _) = read("dots.tar", options).unwrap();
    assert_eq!(found, [("1".to_owned(), "input".to_owned())]);
}

#[test]
fn tables_are_read_as_pandas_reads_them() {
    let mut refused = 0;
    for (name, value) in expected("tables") {
        let found = read(&name, DatasetOptions::default());
        match pairs_of(&value) {
            // The files of images are not there: keys and captions are told by the table alone.
            Some(rows) => {
                let csv = CsvOptions::default();
                let (samples, skips) =
                    clip_distill::data::csv::read(&folder().join(&name), &csv).unwrap();
                assert!(skips.is_empty(), "{name}: {skips}");
                let samples = samples.into_iter();
                let read: Read = samples
                    .map(|s| (s.key.clone(), s.captions[0].clone()))
                    .collect();
                // pandas keeps the line end of a quoted field as it is.
                assert_eq!(read, rows, "{name}");
                assert!(found.is_ok(), "{name}");
            }
            None => {
                let pandas = value.as_str().unwrap();
                let ours = found.unwrap_err();
                assert!(
                    pandas.contains("line 3") && ours.contains("line 3"),
                    "{pandas} / {ours}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1);
}
