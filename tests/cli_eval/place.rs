//! A folder with a small model, and pictures, shards and programs in it.

use clip_distill::autodiff::Tape;
use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::data::transform::{Augment, Transform};
use clip_distill::data::{image, tokenizer};
use clip_distill::model::{Clip, ClipConfig, Parameters};
use clip_distill::tensor::rng::{Philox, Purpose};
use clip_distill::{io, model};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

pub const CONFIG: &str = r#"{"embed_dim": 24,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 24, "vocab_size": 4000, "width": 32, "heads": 2, "layers": 1}}"#;

pub struct Place {
    dir: tempfile::TempDir,
}

/// A file of a shard: its name and content.
pub type Entry = (String, Vec<u8>);

impl Place {
    /// With a checkpoint folder `model` of random weights.
    pub fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        place.write_model("model", CONFIG);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn write_model(&self, folder: &str, config: &str) {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let clip = Clip::new(ClipConfig::from_json(config).unwrap());
        let mut parameters = clip.init(backend.as_ref(), 5).unwrap();
        // A fresh model answers nearly the same to everything; larger weights make it differ.
        for p in parameters.iter_mut().filter(|p| p.decay) {
            let values = backend.download(&p.tensor).unwrap();
            let scaled: Vec<f32> = values.iter().map(|x| 4.0 * x).collect();
            p.tensor = backend.upload(p.tensor.shape(), &scaled).unwrap();
        }
        self.write(
            &format!("{folder}/open_clip_config.json"),
            format!("{{\"model_cfg\": {config}}}"),
        );
        let weights = self.path(&format!("{folder}/model.safetensors"));
        io::save_clip(&weights, &clip, &parameters, backend.as_ref(), false).unwrap();
    }

    pub fn write_tar(&self, name: &str, entries: &[Entry]) {
        self.write(name, tar(entries));
    }

    fn command(&self, program: &str, args: &str) -> Command {
        let mut command = Command::new(match program {
            "eval" => env!("CARGO_BIN_EXE_eval"),
            "embed" => env!("CARGO_BIN_EXE_embed"),
            _ => env!("CARGO_BIN_EXE_train"),
        });
        command
            .current_dir(self.dir.path())
            .args(args.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    /// Runs to success; returns what it printed on stdout.
    pub fn run(&self, program: &str, args: &str) -> String {
        let output = self.command(program, args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs with wrong input: exit code 2, and a last line with every one of `words`.
    pub fn refuses(&self, program: &str, args: &str, words: &[&str]) {
        let output = self.command(program, args).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with(&format!("{program}: ")), "{text}");
        for word in words {
            assert!(last.contains(word), "{args}: no {word:?} in: {last}");
        }
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Runs `eval` and returns the metrics of its results.
    pub fn metrics(&self, args: &str) -> Value {
        self.run("eval", args);
        let mut results = self.json("model/results.json");
        results["metrics"].take()
    }

    /// Runs `embed` and returns the rows of a tensor.
    pub fn rows(&self, args: &str, tensor: &str) -> Vec<Vec<f32>> {
        self.run("embed", &format!("{args} --out out.safetensors"));
        let file = io::read(&self.path("out.safetensors")).unwrap();
        let entry = file.get(tensor).expect(tensor);
        let width = entry.shape[1];
        let rows: Vec<Vec<f32>> = entry
            .as_f32()
            .unwrap()
            .chunks_exact(width)
            .map(<[f32]>::to_vec)
            .collect();
        assert_eq!(rows.len(), entry.shape[0]);
        rows
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// A PNG of coloured blocks, another for each number, wider than high.
pub fn picture(number: u64) -> Vec<u8> {
    let mut rng = Philox::new(11, Purpose::Test, 0, number);
    let (width, height, block) = (46, 40, 5);
    let blocks: Vec<[u8; 3]> = (0..10 * 8)
        .map(|_| std::array::from_fn(|_| rng.below(256) as u8))
        .collect();
    let buffer = ::image::RgbImage::from_fn(width, height, |x, y| {
        ::image::Rgb(blocks[(y / block * 10 + x / block) as usize])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    buffer
        .write_to(&mut bytes, ::image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A sentence, another for each number.
pub fn sentence(number: u64) -> String {
    const WORDS: [&str; 16] = [
        "red", "dog", "house", "under", "seven", "boats", "green", "tall", "woman", "runs", "a",
        "the", "bridge", "night", "old", "sings",
    ];
    let mut rng = Philox::new(12, Purpose::Test, 0, number);
    let words: Vec<&str> = (0..3 + number % 4)
        .map(|_| WORDS[rng.below(16) as usize])
        .collect();
    words.join(" ")
}

/// The library's towers, one input at a time.
pub struct Towers {
    backend: Arc<dyn Backend>,
    clip: Clip,
    parameters: Parameters,
}

impl Towers {
    pub fn new(weights: &Path) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let clip = Clip::new(ClipConfig::from_json(CONFIG).unwrap());
        let parameters = io::load_clip(weights, &clip, backend.as_ref()).unwrap();
        Self {
            backend,
            clip,
            parameters,
        }
    }

    fn unit(&self, y: model::Result<clip_distill::autodiff::Var>) -> Vec<f32> {
        let y = self.backend.download(y.unwrap().value()).unwrap();
        let norm = y.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        y.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
    }

    pub fn image(&self, encoded: &[u8]) -> Vec<f32> {
        let pixels = image::decode(encoded).unwrap();
        let transform = Transform::new(32, Augment::None).unwrap();
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let pixels = transform.pixels(&pixels, &mut rng).pixels;
        let by = transform.normalisation();
        let tensor = self.backend.images(&[1, 32, 32, 3], &pixels, &by).unwrap();
        let tape = Tape::frozen(self.backend.clone());
        let bound = self.parameters.bind(&tape);
        self.unit(self.clip.encode_image(&tape, &bound, &tensor))
    }

    pub fn text(&self, text: &str) -> Vec<f32> {
        let text_cfg = &self.clip.config().text_cfg;
        let bpe = tokenizer::Tokenizer::with_vocab_size(text_cfg.vocab_size).unwrap();
        let ids = bpe.encode(text, text_cfg.context_length);
        let tape = Tape::frozen(self.backend.clone());
        let bound = self.parameters.bind(&tape);
        self.unit(self.clip.encode_text(&tape, &bound, &[ids]))
    }
}
