use std::collections::HashSet;

use super::*;
use crate::data::options::DatasetOptions;
use crate::data::pattern::ShardSource;
use crate::data::transform::Augment;
use crate::data::webdataset::tests::tar_of;

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
        length: None,
        shuffle_buffer: 10,
        mode: Mode::Train,
        workers: 2,
        prefetch: 2,
        transform: Transform::new(8, Augment::Crop { scale: (0.5, 1.0) }).unwrap(),
        tokenizer: Arc::new(|text| text.bytes().map(i32::from).collect()),
    }
}

fn all(config: &LoaderConfig, epoch: u32, skip: u64) -> Vec<Batch> {
    Loader::new(config.clone(), Start::of_round(epoch), skip)
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
    let mut loader = Loader::new(config, Start::default(), 0).unwrap();
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
        let mut loader = Loader::new(config, Start::default(), 0).unwrap();
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
        let mut loader = Loader::new(config.clone(), Start::default(), 0).unwrap();
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
    let mut loader = Loader::new(config, Start::default(), 0).unwrap();
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
    let mut loader = Loader::new(config(Arc::new(data), 1), Start::default(), 0).unwrap();
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
    let csv = crate::data::csv::CsvOptions {
        data_root: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let table = crate::data::csv::read(&path, &csv).unwrap();
    let data = Dataset::from_tables(vec![table], None, DatasetOptions::default()).unwrap();
    let config = config(Arc::new(data), 3);
    let mut loader = Loader::new(config, Start::default(), 0).unwrap();
    let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
    assert!(batches.len() >= 3);
    assert!(loader.stats().skips.count(SkipKind::MissingFile) <= 1);
    let keys: HashSet<_> = batches.iter().flat_map(|b| b.keys.clone()).collect();
    assert!(keys.len() >= 9 && !keys.contains("5.png"));
}

/// The keys of `epochs` epochs of `length` samples that go on where the last one ended.
fn epochs(config: &LoaderConfig, epochs: u64, length: u64) -> Vec<Vec<Batch>> {
    let mut config = config.clone();
    config.length = Some(length);
    let mut start = Start::default();
    let mut all = Vec::new();
    for _ in 0..epochs {
        let mut loader = Loader::new(config.clone(), start, 0).unwrap();
        let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
        assert_eq!(batches.len() as u64, length / config.batch_size as u64);
        for skip in 0..=batches.len() {
            let rest = Loader::new(config.clone(), start, skip as u64).unwrap();
            let rest: Vec<Batch> = rest.map(Result::unwrap).collect();
            assert_eq!(rest, batches[skip..], "resumed after {skip} batches");
        }
        start = loader.after(batches.len() as u64);
        all.push(batches);
    }
    all
}

fn keys(epochs: &[Vec<Batch>]) -> Vec<String> {
    let batches = epochs.iter().flatten();
    batches.flat_map(|b| b.keys.clone()).collect()
}

/// No sample comes twice before all came once, whether an epoch is longer or shorter than the data.
#[test]
fn an_epoch_of_any_length_goes_on_with_the_next_order() {
    for workers in [1, 2, 8] {
        let mut config = config(dataset(2, 5, &[], false), 2);
        config.workers = workers;
        for (length, n) in [(24, 2), (4, 5), (10, 3), (6, 8)] {
            let all = keys(&epochs(&config, n, length));
            assert_eq!(all.len() as u64, n * length);
            let rounds: Vec<HashSet<&String>> =
                all.chunks(10).map(|c| c.iter().collect()).collect();
            for (i, round) in rounds.iter().enumerate() {
                let whole = 10.min(all.len() - i * 10);
                assert_eq!(round.len(), whole, "round {i} of epochs of {length}");
            }
            assert!(
                all.len() < 20 || all[..10] != all[10..20],
                "each round has its order"
            );
        }
    }
}

/// Where the next epoch begins is told without reading into it, and in one way only.
#[test]
fn an_epoch_knows_where_the_next_begins() {
    let mut config = config(dataset(2, 5, &[], false), 2);
    for (length, round, read) in [(10, 1, 0), (4, 0, 4), (24, 2, 4), (20, 2, 0)] {
        config.length = Some(length);
        for _ in 0..20 {
            let mut loader = Loader::new(config.clone(), Start::default(), 0).unwrap();
            for _ in 0..length / 2 {
                loader.next().unwrap().unwrap();
            }
            assert_eq!(loader.after(length / 2), Start { round, read });
        }
    }
}

/// The captions and crops of the same sample differ from round to round within an epoch.
#[test]
fn a_round_has_draws_of_its_own() {
    let config = config(dataset(1, 8, &[], false), 8);
    let epoch = epochs(&config, 1, 32).remove(0);
    let of_first = epoch.iter().map(|b| {
        let at = b.keys.iter().position(|k| k == "0003").unwrap();
        let size = b.images.len() / 8;
        (
            b.captions[at].clone(),
            b.images[at * size..][..size].to_vec(),
        )
    });
    assert_eq!(of_first.collect::<HashSet<_>>().len(), 4);
}

#[test]
fn undecodable_samples_cost_no_step() {
    // Of 16 samples, all planned for, 5 cannot be decoded: the next order fills the batches.
    let config = config(dataset(2, 8, &[1, 5, 6, 11, 15], false), 4);
    for batches in &epochs(&config, 3, 16) {
        for batch in batches {
            assert_eq!(batch.keys.iter().collect::<HashSet<_>>().len(), 4);
        }
    }
}

#[test]
fn data_without_a_batch_say_what_they_hold() {
    let of = |bad: &[usize], batch_size: usize| {
        let mut config = config(dataset(1, 6, bad, false), batch_size);
        config.length = Some(batch_size as u64 * 3);
        let mut loader = Loader::new(config, Start::default(), 0).unwrap();
        let error = loader.next().unwrap().unwrap_err();
        assert!(loader.next().is_none());
        error.to_string()
    };
    let all = of(&[0, 1, 2, 3, 4, 5], 3);
    assert!(all.starts_with("no usable pair"), "{all}");
    assert!(all.contains("undecodable image (000"), "{all}");
    let few = of(&[0, 1, 2, 3], 3);
    assert!(few.contains("only 2 usable samples, skipped: "), "{few}");
    assert!(of(&[], 7).contains("only 6 usable samples"));
    let tar = tar_of(&[
        ("1.jpg", b"J"),
        ("2.jpg", b"J"),
        ("1.txt", b"t"),
        ("2.txt", b"t"),
    ]);
    let shard = ShardSource::Memory {
        name: "0.tar".into(),
        bytes: tar.leak(),
    };
    let data = Dataset::from_shards(vec![shard], DatasetOptions::default()).unwrap();
    let mut loader = Loader::new(config(Arc::new(data), 1), Start::default(), 0).unwrap();
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("must follow one another"), "{error}");
}

#[test]
fn resampled_epochs_never_end_by_themselves() {
    let data = Dataset::from_samples(
        (0..5)
            .map(|i| {
                let image = crate::data::sample::ImageBytes::Bytes(png(i));
                Sample::new(i.to_string(), image, vec![format!("c {i}")], None)
            })
            .collect(),
        Skips::default(),
        DatasetOptions::default(),
    );
    let mut config = config(Arc::new(data.resampled()), 4);
    config.length = Some(40);
    let all = all(&config, 0, 0);
    assert_eq!(all.len(), 10);
    assert_eq!(self::all(&config, 0, 3), all[3..]);
    assert_ne!(self::all(&config, 1, 0), all);
}
