//! Images a second: decoding, resizing, both, and the whole loader with one and two workers.
//!
//!     cargo bench --bench data [-- [--photos FOLDER] [--repetitions N] [--memory]]
//!
//! FOLDER holds the pictures (default: the tests' photographs). What the loader costs beside decoding is the
//! difference between its rate with one worker and that of the same work without it. `benches/peers/data.py` does the same
//! work with Pillow and torchvision; run both in turns. `--memory` loads once with eight workers and a shuffle buffer of
//! 5 000 photographs and prints the peak memory of the process.

use clip_distill::data::sample::{ImageBytes, Sample};
use clip_distill::data::{
    Augment, Dataset, DatasetOptions, Decoding, Loader, LoaderConfig, Mode, RgbImage, Skips, Speed,
    Start, Transform,
};
use clip_distill::tensor::rng::{Philox, Purpose};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u32 = 224;
const BATCH: usize = 32;

/// As the programs: allocation is part of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Arguments {
    photos: PathBuf,
    repetitions: usize,
    memory: bool,
}

fn arguments() -> Arguments {
    let mut all = Arguments {
        photos: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images"),
        repetitions: 7,
        memory: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{word} needs a value"))
        };
        match word.as_str() {
            "--photos" => all.photos = value().into(),
            "--repetitions" => all.repetitions = value().parse().expect("a number"),
            "--memory" => all.memory = true,
            // What `cargo bench` adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    all
}

fn photos(folder: &Path) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder).expect("a folder of photographs");
    let mut paths: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jpg"));
    paths.sort();
    let read = |p: &PathBuf| std::fs::read(p).unwrap();
    paths.iter().map(read).collect()
}

fn decoding(speed: Speed) -> Decoding {
    Decoding {
        speed,
        ..Decoding::default()
    }
}

fn transform(speed: Speed) -> Transform {
    let augment = match speed {
        Speed::Fast => Augment::Crop { scale: (0.9, 1.0) },
        Speed::Exact => Augment::None,
    };
    Transform::new(SIZE, augment).unwrap().at_speed(speed)
}

/// A row of the table: its name, and a pass over all photographs.
type Row<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let arguments = arguments();
    let photos = photos(&arguments.photos);
    assert!(
        !photos.is_empty(),
        "no .jpg in {}",
        arguments.photos.display()
    );
    if arguments.memory {
        return memory(&photos);
    }
    let images: Vec<RgbImage> = photos
        .iter()
        .map(|p| decoding(Speed::Exact).decode(p).unwrap())
        .collect();
    let bytes: usize = photos.iter().map(Vec::len).sum();
    let pixels: usize = images.iter().map(|i| i.pixels.len() / 3).sum();
    println!(
        "{} photographs, {} kB and {} kilopixels each; images a second, one thread, median of {}",
        photos.len(),
        bytes / photos.len() / 1000,
        pixels / photos.len() / 1000,
        arguments.repetitions
    );
    let rng = |i: usize| Philox::new(0, Purpose::Augment, 0, i as u64);
    let mut rows: Vec<Row> = Vec::new();
    for (speed, names) in [
        (
            Speed::Fast,
            [
                "decode, training",
                "resize, training",
                "decode and resize, training",
            ],
        ),
        (
            Speed::Exact,
            ["decode, exact", "resize, exact", "decode and resize, exact"],
        ),
    ] {
        let (photos, images) = (&photos, &images);
        rows.push((
            names[0],
            Box::new(move || {
                photos.iter().for_each(|p| {
                    black_box(decoding(speed).decode(p).unwrap());
                })
            }),
        ));
        rows.push((
            names[1],
            Box::new(move || {
                images.iter().enumerate().for_each(|(i, image)| {
                    black_box(transform(speed).pixels(image, &mut rng(i)));
                })
            }),
        ));
        rows.push((
            names[2],
            Box::new(move || {
                photos.iter().enumerate().for_each(|(i, p)| {
                    let image = decoding(speed).decode(p).unwrap();
                    black_box(transform(speed).pixels(&image, &mut rng(i)));
                })
            }),
        ));
    }
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..arguments.repetitions {
        for ((_, pass), times) in rows.iter_mut().zip(&mut times) {
            let start = Instant::now();
            pass();
            times.push(start.elapsed().as_secs_f64() / photos.len() as f64);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|t| median(t)).collect();
    for ((name, _), seconds) in rows.iter().zip(&medians) {
        println!("{name:<30} {:>8.0}", 1.0 / seconds);
    }
    let bare = medians[2];
    for workers in [1, 2] {
        let mut seconds: Vec<f64> = (0..arguments.repetitions)
            .map(|_| load(&photos, workers, 0.0).0)
            .collect();
        let seconds = median(&mut seconds);
        let beside = match workers {
            1 => format!(
                "   {:.1} % beside decoding and resizing",
                100.0 * (seconds / bare - 1.0)
            ),
            _ => String::new(),
        };
        println!("loader, {workers} workers {:>21.0}{beside}", 1.0 / seconds);
    }
    // A step that takes a quarter longer than one worker needs for its batch.
    let step = 1.25 * bare * BATCH as f64;
    let (_, waited) = load(&photos, 1, step);
    println!(
        "a step of {:.0} ms waits {:.1} % of its time",
        1e3 * step,
        100.0 * waited
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A dataset of at least `n` samples of these photographs.
fn dataset(photos: &[Vec<u8>], n: usize) -> Arc<Dataset> {
    let samples = (0..n).map(|i| {
        let image = ImageBytes::Bytes(photos[i % photos.len()].clone());
        Sample::new(i.to_string(), image, vec![format!("photograph {i}")], None)
    });
    let options = DatasetOptions {
        decoding: decoding(Speed::Fast),
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::from_samples(
        samples.collect(),
        Skips::default(),
        options,
    ))
}

fn loader(dataset: Arc<Dataset>, workers: usize, shuffle_buffer: usize) -> Loader {
    let config = LoaderConfig {
        dataset,
        batch_size: BATCH,
        seed: 0,
        length: None,
        shuffle_buffer,
        mode: Mode::Train,
        workers,
        prefetch: 2,
        transform: transform(Speed::Fast),
        tokenizer: Arc::new(|_| Vec::new()),
    };
    Loader::new(config, Start::default(), 0).unwrap()
}

/// Seconds an image, and the share of the time in which a step that takes `step` seconds waited.
fn load(photos: &[Vec<u8>], workers: usize, step: f64) -> (f64, f64) {
    let n = 16 * BATCH;
    let mut loader = loader(dataset(photos, n), workers, 64);
    // The first batch starts the pipeline, as a run's first step does.
    loader.next().unwrap().unwrap();
    let before = loader.stats().waited;
    let start = Instant::now();
    let mut images = 0;
    for batch in loader.by_ref() {
        images += black_box(batch.unwrap()).len();
        std::thread::sleep(Duration::from_secs_f64(step));
    }
    let seconds = start.elapsed().as_secs_f64();
    let waited = loader.stats().waited - before;
    (seconds / images as f64, waited / seconds)
}

fn memory(photos: &[Vec<u8>]) {
    let n = 6000;
    let data = dataset(photos, n);
    let kept = resident();
    let mut images = 0;
    for batch in loader(data, 8, 5000) {
        images += black_box(batch.unwrap()).len();
    }
    let peak = status("VmHWM:");
    println!(
        "{images} images, 8 workers, a shuffle buffer of 5000: peak {peak} MB, {kept} MB of it the encoded photographs"
    );
}

fn resident() -> u64 {
    status("VmRSS:")
}

/// A number of /proc/self/status in MB.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text
        .lines()
        .find(|l| l.starts_with(key))
        .unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_default();
    kib * 1024 / 1_000_000
}
