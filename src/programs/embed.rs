//! `embed CHECKPOINT`: unit features of images and texts, as safetensors.
//!
//! `--out FILE.safetensors` holds `image_features [n, d]` and `text_features [m, d]`, f32 rows of unit
//! length, whichever of them was asked for. FILE.json beside it says what the rows are: row i of
//! `image_features` is `images[i]` (the path within the folder, or the sample's key in its shard), row i
//! of `text_features` is `texts[i]`, which is line i + 1 of the file. Images that cannot be read have
//! no row; they are counted under `skipped`.

use super::help::Screen;
use super::{ModelFlags, Request, check_output, write_json};
use crate::data::pattern::{self, is_image};
use crate::data::{Cost, Dataset, DatasetOptions, IMAGE_KEYS, Skips, Speed, keys};
use crate::eval::picture_flags::PictureFlags;
use crate::eval::{Loading, Model, classes, folders, report};
use crate::io::{self, Entry};
use crate::notices::notice;
use crate::settings::error::{Result, input, unwritten, usage};
use clap::{CommandFactory, Parser};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two lines about a long folder.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes unit features of images and texts as safetensors.
#[derive(Clone, Debug, Parser)]
#[command(name = "embed", version, args_override_self = true)]
pub struct Flags {
    /// The model.
    #[command(flatten)]
    pub model: ModelFlags,
    /// A folder of images (JPEG, PNG, WebP, GIF, BMP, TIFF) or of shards, or shards as --train-data names them.
    #[arg(long, value_name = "DIR|SHARDS", help_heading = "Data")]
    pub images: Option<String>,
    /// Extensions of the members of a shard that hold the image, the preferred one first.
    #[arg(long, default_value = IMAGE_KEYS, value_name = "KEYS", help_heading = "Data")]
    pub image_key: String,
    /// How pictures are decoded.
    #[command(flatten)]
    pub pictures: PictureFlags,
    /// Texts, one per line.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub texts: Option<PathBuf>,
    /// The features; FILE.json beside it names the rows.
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Data")]
    pub out: PathBuf,
}

/// All flags of the program.
pub(super) fn command() -> clap::Command {
    Flags::command()
}

const SCREEN: Screen = Screen {
    flags: &[
        "images",
        "texts",
        "out",
        "model",
        "backend",
        "precision",
        "batch-size",
        "workers",
    ],
    end: "\
A run's newest checkpoint:
  embed logs/first --images photos --out features.safetensors",
};

/// Reads a command line, the program's name first. Flags may have underscores for dashes.
///
/// # Errors
/// [`Error::Usage`](crate::settings::error::Error::Usage) with one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request<Flags>> {
    super::parse(args, &SCREEN)
}

/// Embeds as `flags` say, writes both files, and returns what to print.
///
/// # Errors
/// If the checkpoint or any data cannot be used, the device fails, or the files cannot be written.
pub fn embed(flags: &Flags) -> Result<String> {
    flags.model.check()?;
    if flags.images.is_none() && flags.texts.is_none() {
        return usage("nothing to embed: give --images, --texts or both");
    }
    if flags.out.extension().is_none_or(|e| e != "safetensors") {
        return usage(format!(
            "--out {}: must end in .safetensors",
            flags.out.display()
        ));
    }
    check_output(&flags.out)?;
    let dataset = match &flags.images {
        Some(data) => Some(Arc::new(images(data, flags)?)),
        None => None,
    };
    let texts = match &flags.texts {
        Some(path) => Some(classes::lines(path)?),
        None => None,
    };
    let (backend, trained, loading) = flags.model.open()?;
    let mut work = Work {
        model: trained.model(&backend),
        entries: Vec::new(),
        names: Map::from_iter([
            ("model".to_string(), json!(trained.name)),
            ("pictures".to_string(), json!(flags.pictures)),
        ]),
        text: String::new(),
    };
    if let Some(dataset) = dataset {
        work.images(
            &dataset,
            &loading,
            flags.images.as_deref().unwrap_or("images"),
        )?;
    }
    if let Some(texts) = texts {
        work.texts(&texts)?;
    }
    work.write(&flags.out)
}

fn images(data: &str, flags: &Flags) -> Result<Dataset> {
    let options = DatasetOptions {
        require_caption: false,
        image_keys: keys(&flags.image_key),
        decoding: flags.pictures.decoding(Speed::Exact),
        ..DatasetOptions::default()
    };
    if options.image_keys.is_empty() {
        return usage("--image-key names no key");
    }
    let folder = Path::new(data);
    // A folder of shards holds no images of its own.
    if folder.is_dir() && pattern::expand(data).is_err() {
        let samples = folders::plain(folder)?;
        return Ok(Dataset::from_samples(samples, Skips::default(), options));
    }
    if folder.is_file() && is_image(data) {
        return usage(format!(
            "--images {data}: is a single image; name its folder, or webdataset shards"
        ));
    }
    Dataset::from_patterns(data, options).map_err(input)
}

/// Features made so far, and what their rows are.
struct Work<'a> {
    model: Model<'a>,
    entries: Vec<Entry>,
    names: Map<String, Value>,
    text: String,
}

impl Work<'_> {
    fn images(&mut self, dataset: &Arc<Dataset>, loading: &Loading, source: &str) -> Result<()> {
        let (started, mut told) = (Instant::now(), Instant::now());
        let embedded = self.model.embed_dataset(dataset, loading, &mut |n| {
            if told.elapsed() >= PAUSE {
                told = Instant::now();
                notice(format_args!("{n} images"));
            }
        })?;
        let embedded = embedded.non_empty(source)?;
        let n = embedded.keys.len();
        self.put("image_features", n, embedded.images);
        self.text += &rate(n, "images", started);
        for (word, skips) in report::told(&embedded.skips) {
            self.text += &format!("{word}: {skips}\n");
        }
        self.names.insert("images".into(), json!(embedded.keys));
        let skipped = report::counts(&embedded.skips, |cost| cost != Cost::Nothing);
        self.names.insert("skipped".into(), skipped);
        Ok(())
    }

    fn texts(&mut self, texts: &[String]) -> Result<()> {
        let started = Instant::now();
        let features = self.model.embed_texts(texts)?;
        self.put("text_features", texts.len(), features);
        self.text += &rate(texts.len(), "texts", started);
        self.names.insert("texts".into(), json!(texts));
        Ok(())
    }

    fn put(&mut self, name: &str, rows: usize, features: Vec<f32>) {
        let shape = [rows, self.model.width()];
        self.entries.push(Entry::f32(name, &shape, features));
    }

    fn write(mut self, out: &Path) -> Result<String> {
        for entry in &self.entries {
            let line = format!("{}: {} {:?}\n", out.display(), entry.name, entry.shape);
            self.text += &line;
        }
        let tensors = self.entries.into_iter().map(Into::into).collect();
        io::write(out, tensors, &HashMap::new()).map_err(unwritten)?;
        let sidecar = out.with_extension("json");
        write_json(&sidecar, &Value::Object(self.names))?;
        self.text += &format!("{}: what the rows are\n", sidecar.display());
        Ok(self.text)
    }
}

/// `120 images in 3.1 s, 38.7/s`.
fn rate(n: usize, what: &str, started: Instant) -> String {
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    format!(
        "{n} {what} in {seconds:.1} s, {:.1}/s\n",
        n as f64 / seconds
    )
}
