use std::collections::HashSet;

use super::super::options::DatasetOptions;
use super::super::pattern::ShardSource;
use super::super::transform::Augment;
use super::super::webdataset::tests::tar_of;
use super::*;

fn png(value: u8) -> Vec<u8> {
    let pixel = image::Rgb([value, 255 - value, 77]);
    let picture = image::RgbImage::from_fn(9, 7, |x, y| {
        let mut p = pixel;
        p.0[2] = (x * 20 + y) as u8;
        p
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// `shards` shards of `each` samples; those whose number over all is in `bad` do not decode.
fn dataset(shards: usize, each: usize, bad: &[usize], cache: bool) -> Arc<Dataset> {
    let mut sources = Vec::new();
    for s in 0..shards {
        let mut files = Vec::new();
        for i in 0..each {
            let n = s * each + i;
            let picture = if bad.contains(&n) {
                b"not an image".to_vec()
            } else {
                png(n as u8)
            };
            let texts = format!(r#"{{"captions": ["a {n}", "b {n}", "c {n}"], "class": {s}}}"#);
            files.push((format!("{n:04}.png"), picture));
            files.push((format!("{n:04}.json"), texts.into_bytes()));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (&**p, &**b)).collect();
        sources.push(ShardSource::Memory {
            name: format!("{s}.tar"),
            bytes: tar_of(&files).leak(),
        });
    }
    let options = DatasetOptions {
        cache,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::from_shards(sources, options).unwrap())
}

fn config(dataset: Arc<Dataset>, batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        dataset,
        batch_size,
        seed: 11,
        shuffle_buffer: 10,
        mode: Mode::Train,
        workers: 2,
        prefetch: 2,
        transform: Transform::new(8, Augment::Crop { scale: (0.5, 1.0) }).unwrap(),
        tokenizer: Arc::new(|text| text.bytes().map(i32::from).collect()),
    }
}

fn all(config: &LoaderConfig, epoch: u32, skip: u64) -> Vec<Batch> {
    Loader::new(config.clone(), epoch, skip)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn batches_do_not_depend_on_the_number_of_workers() {
    let data = dataset(5, 9, &[3, 20, 21], false);
    let mut config = config(data, 8);
    config.workers = 1;
    let one = all(&config, 0, 0);
    assert_eq!(one.len(), 5);
    for batch in &one {
        assert_eq!(batch.len(), 8);
        assert_eq!(batch.images.len(), 8 * 8 * 8 * 3);
        assert_eq!(batch.keys.iter().collect::<HashSet<_>>().len(), 8);
    }
    for workers in [2, 4] {
        config.workers = workers;
        config.prefetch = workers;
        assert_eq!(all(&config, 0, 0), one);
    }
    assert_ne!(all(&config, 1, 0), one);
    config.dataset = dataset(5, 9, &[3, 20, 21], true);
    assert_eq!(all(&config, 0, 0), one);
    assert_eq!(all(&config, 0, 0), one, "from the cache");
    config.seed = 12;
    assert_ne!(all(&config, 0, 0), one);
}

#[test]
fn resuming_equals_continuing() {
    let config = config(dataset(4, 12, &[0, 7, 8, 30], false), 6);
    let whole = all(&config, 3, 0);
    for skip in 0..=whole.len() {
        assert_eq!(all(&config, 3, skip as u64), whole[skip..], "skip {skip}");
    }
}

#[test]
fn evaluation_gives_every_sample_once_in_order() {
    let mut config = config(dataset(2, 10, &[4, 5, 6, 7, 19], false), 4);
    config.mode = Mode::Evaluate;
    config.shuffle_buffer = 0;
    config.transform = Transform::new(8, Augment::None).unwrap();
    let mut loader = Loader::new(config, 0, 0).unwrap();
    let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
    let keys: Vec<&String> = batches.iter().flat_map(|b| &b.keys).collect();
    let expected: Vec<String> = (0..20)
        .filter(|n| ![4, 5, 6, 7, 19].contains(n))
        .map(|n| format!("{n:04}"))
        .collect();
    assert_eq!(keys, expected.iter().collect::<Vec<_>>());
    // The second batch is undecodable altogether.
    let indices: Vec<u64> = batches.iter().map(|b| b.index).collect();
    assert_eq!(indices, [0, 2, 3, 4]);
    assert_eq!(batches[3].len(), 3);
    assert_eq!(batches[0].captions[2], "a 2");
    assert_eq!(batches[0].all_captions[2], ["a 2", "b 2", "c 2"]);
    assert_eq!(batches[2].classes[0].as_deref(), Some("1"));
    let stats = loader.stats();
    assert_eq!(stats.samples, 15);
    assert_eq!(stats.skips.count(SkipKind::UndecodableImage), 5);
}

#[test]
fn captions_are_drawn_anew_each_epoch() {
    let config = config(dataset(2, 16, &[], false), 32);
    let of = |epoch| {
        let batch = all(&config, epoch, 0).remove(0);
        let mut pairs: Vec<_> = batch.keys.into_iter().zip(batch.captions).collect();
        pairs.sort();
        pairs
    };
    let (one, two) = (of(0), of(1));
    assert_ne!(one, two);
    let kinds: HashSet<_> = one.iter().map(|(_, c)| c.as_bytes()[0]).collect();
    assert_eq!(kinds.len(), 3);
}

#[test]
fn a_batch_larger_than_the_data_is_an_error_with_both_numbers() {
    for (batch, bad, usable) in [(11, vec![], "10"), (10, vec![2, 3], "8")] {
        let config = config(dataset(1, 10, &bad, false), batch);
        let mut loader = Loader::new(config, 0, 0).unwrap();
        let error = loader.next().unwrap().unwrap_err().to_string();
        assert!(error.contains(&batch.to_string()), "{error}");
        assert!(error.contains(usable), "{error}");
        assert!(loader.next().is_none());
    }
}

#[test]
fn many_undecodable_samples_neither_block_nor_shrink() {
    // Far more in a row than the window of two batches.
    let bad: Vec<usize> = (2..50).collect();
    let mut config = config(dataset(1, 60, &bad, false), 4);
    config.shuffle_buffer = 0;
    config.prefetch = 1;
    let batches = all(&config, 0, 0);
    assert_eq!(batches[0].keys, ["0000", "0001", "0050", "0051"]);
    assert!(batches.iter().all(|b| b.len() == 4));
}

#[test]
fn dropping_midway_stops_the_threads() {
    let config = config(dataset(4, 50, &[], false), 5);
    for taken in [0, 1, 3] {
        let mut loader = Loader::new(config.clone(), 0, 0).unwrap();
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
        drop(loader);
    }
}

#[test]
fn a_panicking_tokenizer_is_an_error() {
    let mut config = config(dataset(1, 10, &[], false), 5);
    config.tokenizer = Arc::new(|text| text.bytes().map(|b| 1 / (i32::from(b) - 32)).collect());
    let mut loader = Loader::new(config, 0, 0).unwrap();
    assert!(matches!(loader.next(), Some(Err(Error::Worker(_)))));
    assert!(loader.next().is_none());
}

#[test]
fn a_shard_that_vanishes_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    std::fs::write(&path, tar_of(&[("1.png", &png(1)), ("1.txt", b"x")])).unwrap();
    let pattern = path.display().to_string();
    let data = Dataset::from_patterns(&pattern, DatasetOptions::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut loader = Loader::new(config(Arc::new(data), 1), 0, 0).unwrap();
    let error = loader.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("0.tar"), "{error}");
}

#[test]
fn a_table_loads_like_shards() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("filepath\ttitle\n");
    for i in 0..12u8 {
        if i != 5 {
            std::fs::write(folder.path().join(format!("{i}.png")), png(i)).unwrap();
        }
        table += &format!("{i}.png\tcaption {i}\n");
    }
    let path = folder.path().join("table.tsv");
    std::fs::write(&path, table).unwrap();
    let csv = super::super::csv::CsvOptions {
        data_root: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let data = Dataset::from_csv(&path, &csv, DatasetOptions::default()).unwrap();
    let config = config(Arc::new(data), 3);
    let mut loader = Loader::new(config, 0, 0).unwrap();
    let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
    assert!(batches.len() >= 3);
    assert!(loader.stats().skips.count(SkipKind::MissingImage) <= 1);
    let keys: HashSet<_> = batches.iter().flat_map(|b| b.keys.clone()).collect();
    assert!(keys.len() >= 9 && !keys.contains("5.png"));
}
