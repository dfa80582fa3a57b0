//! Running the real `train` in a folder of its own.
#![allow(dead_code)] // each suite uses a part

use clip_distill::run::checkpoint::TrainState;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Small models to train: a ViT and a ResNet.
pub const STUDENT: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1}}"#;
pub const RESNET: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": null, "width": 4, "layers": [1, 1, 1, 1], "head_width": 32},
  "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1}}"#;

/// A temporary folder.
pub struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    /// With these files: name and content.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, text) in files {
            std::fs::write(folder.path(name), text).unwrap();
        }
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `program` here, with the arguments in `args`.
    pub fn run(&self, program: &str, args: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .args(args.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    pub fn train(&self, args: &str) -> Command {
        self.run(env!("CARGO_BIN_EXE_train"), args)
    }

    /// The lines of steps in a run's metrics.jsonl.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let mut lines = self.lines(run);
        lines.retain(|line| line.get("loss").is_some());
        lines
    }

    /// What a run's metrics.jsonl says about its data, epoch by epoch.
    pub fn accounts(&self, run: &str) -> Vec<Value> {
        let lines = self.lines(run).into_iter();
        lines.filter_map(|line| line.get("data").cloned()).collect()
    }

    fn lines(&self, run: &str) -> Vec<Value> {
        let path = self.path(&format!("logs/{run}/metrics.jsonl"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    /// The terms of the run's loss at each logged step, in the order of their names.
    pub fn terms(&self, run: &str) -> Vec<Vec<f64>> {
        let terms = |line: &Value| -> Vec<f64> {
            let all = line.as_object().unwrap().iter();
            let losses = all.filter(|(key, _)| key.starts_with("loss"));
            losses.map(|(_, x)| x.as_f64().unwrap()).collect()
        };
        self.metrics(run).iter().map(terms).collect()
    }
}

/// Asserts that two runs have the same terms at every step, within `tolerance` of max(1, expected).
pub fn agree(name: &str, got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{name}: steps");
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len(), "{name}: terms");
        for (got, want) in got.iter().zip(want) {
            let error = (got - want).abs() / want.abs().max(1.0);
            println!("{name} step {step}: {got} {want} {error:.1e}");
            assert!(error <= tolerance, "{name} step {step}: {got}, not {want}");
        }
    }
}

/// Runs to the end, which must be exit code `code`.
pub fn expect(mut command: Command, code: i32) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    output
}

/// Runs with wrong input: exit code 2 and a last line that holds every one of `words`.
pub fn refuses(command: Command, words: &[&str]) {
    let output = expect(command, 2);
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("train: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in: {last}");
    }
}

/// Waits until a running program has made `path`.
pub fn wait_for(child: &mut Child, path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "ended before {}", path.display());
        let waited = start.elapsed();
        assert!(
            waited < Duration::from_secs(120),
            "{} never came",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs until `path` exists, and kills.
pub fn killed_at(mut command: Command, path: &Path) {
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, path);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether two checkpoint folders hold the same bits.
pub fn same(a: &Path, b: &Path) {
    let weights = |p: &Path| std::fs::read(p.join("model.safetensors")).unwrap();
    assert!(
        weights(a) == weights(b),
        "weights of {} and {} differ",
        a.display(),
        b.display()
    );
    let (a, b) = (TrainState::load(a).unwrap(), TrainState::load(b).unwrap());
    assert_eq!(a.position, b.position);
    assert!(a.tensors == b.tensors, "optimiser states differ");
}
