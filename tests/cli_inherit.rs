//! The real `train` program with weight inheritance: manual, automatic and in stages, each resumed to the bit.

use clip_distill::model::ClipConfig;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

#[path = "common/program.rs"]
mod program;

use program::{Folder, expect, killed_at, refuses, same};

const BIG: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8},
  "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 32, "heads": 4, "layers": 4}}"#;
const SMALL: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
  "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 24, "heads": 3, "layers": 2}}"#;

struct Place {
    folder: Folder,
}

impl Place {
    /// A folder with both configurations and the run `big` of the bigger model.
    fn new() -> Self {
        let place = Self {
            folder: Folder::new(&[("big.json", BIG), ("small.json", SMALL)]),
        };
        expect(place.train("--model big.json --steps 2 --name big"), 0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    fn train(&self, args: &str) -> Command {
        let always = "--train-data demo --method clip --batch-size 16 --workers 1 --threads 1";
        self.folder.train(&format!("{always} {args}"))
    }

    fn killed_at(&self, args: &str, path: &str) {
        killed_at(self.train(args), &self.path(path));
    }

    fn model(&self, folder: &str) -> ClipConfig {
        let path = self.path(folder).join("open_clip_config.json");
        ClipConfig::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

const PRUNE: &str = "--model big.json --pretrained-image-file logs/big --pretrained-text-file logs/big \
    --prune-image --prune-text --prune-step 120 --sparsity-warmup 60 --target-sparsity 0.5 --gate-lr 0.1 \
    --steps 124 --log-every 20 --save-every-steps 20 --logit-scale 50 --norm_gradient_clip 5";

#[test]
fn gates_reach_their_target_and_a_killed_run_resumes_to_the_bit() {
    let place = Place::new();
    expect(place.train(&format!("{PRUNE} --name whole")), 0);
    for line in place.folder.metrics("whole/prune") {
        let number = |key: &str| line[key].as_f64().unwrap();
        let (step, target) = (number("step"), number("sparsity_target"));
        assert_eq!(target, 0.5 * ((step - 1.0) / 60.0).min(1.0));
        assert!((number("scale") - 50.0).abs() < 1e-3);
        for tower in ["image", "text"] {
            let sparsity = number(&format!("sparsity_{tower}"));
            // The gates begin nearly open and go at most 0.1 a step.
            if step >= 80.0 {
                assert!((sparsity - target).abs() < 0.05, "{tower} {line}");
            }
        }
    }
    let export = place.model("logs/whole/prune/export");
    assert_eq!(place.model("logs/whole/checkpoints/step_4"), export);
    let weights = |c: &ClipConfig| {
        let (v, t) = (&c.vision_cfg, &c.text_cfg);
        let of = |l: usize, w: usize, m: usize| l * (4 * w * w + 2 * w * m);
        let image = of(v.layers.blocks(), v.width, v.mlp_width());
        [image, of(t.layers, t.width, t.mlp_width())].map(|n| n as f64)
    };
    let whole = ClipConfig::from_json(BIG).unwrap();
    for (left, all) in weights(&export).iter().zip(weights(&whole)) {
        assert!((left / all - 0.5).abs() < 0.07, "{left} of {all}");
    }
    let args = "logs/whole/prune/export --val-data demo --threads 1";
    expect(place.folder.run(env!("CARGO_BIN_EXE_eval"), args), 0);

    let args = format!("{PRUNE} --name killed");
    place.killed_at(&args, "logs/killed/prune/checkpoints/step_40");
    let resumed = format!("{args} --resume latest");
    place.killed_at(&resumed, "logs/killed/prune/checkpoints/step_100");
    expect(place.train(&resumed), 0);
    for checkpoint in ["prune/checkpoints/step_120", "checkpoints/step_4"] {
        let at = |run: &str| place.path(&format!("logs/{run}/{checkpoint}"));
        same(&at("whole"), &at("killed"));
    }
    // The folder's own configuration goes on as well, and finds nothing left to do.
    expect(
        place.train("--config logs/killed/config.toml --resume latest"),
        0,
    );
}

/// The gates of a step are the same in every part and in every recomputation.
#[test]
fn memory_savers_change_nothing_while_gates_learn() {
    let place = Place::new();
    let run = |name: &str, more: &str| {
        let gates =
            "--model big.json --prune-image --prune-text --prune-step 4 --sparsity-warmup 0";
        let args = format!("{gates} --gate-lr 1 --steps 5 --log-every 1 --name {name} {more}");
        expect(place.train(&args), 0);
        let number = |line: &Value| line["loss"].as_f64().unwrap();
        let metrics = place.folder.metrics(&format!("{name}/prune"));
        metrics.iter().map(number).collect::<Vec<_>>()
    };
    let whole = run("whole", "");
    assert_eq!(run("again", "--grad-checkpointing"), whole);
    let at = |name: &str| place.path(&format!("logs/{name}/prune/checkpoints/step_4"));
    same(&at("whole"), &at("again"));
    let parts = run("parts", "--batch-size 8 --accum-freq 2");
    assert_eq!(parts[0], whole[0]);
    for (part, whole) in parts.iter().zip(&whole) {
        assert!((part - whole).abs() < 1e-3, "{part}, not {whole}");
    }
}

#[test]
fn stages_shrink_one_after_the_other_and_resume() {
    let place = Place::new();
    let args = "--inherit-from logs/big --stages 100,75,25 --steps 6 --save-every-steps 1";
    expect(place.train(&format!("{args} --name whole")), 0);
    let sizes = |stage: &str| {
        let c = place.model(&format!("logs/whole/{stage}/checkpoints/step_6"));
        (c.vision_cfg.width, c.text_cfg.layers)
    };
    assert_eq!(sizes("stage-75"), (24, 3));
    assert_eq!(sizes("stage-25"), (16, 1));
    let killed = format!("{args} --name killed");
    place.killed_at(&killed, "logs/killed/stage-75/checkpoints/step_3");
    let resumed = "--config logs/killed/config.toml --resume latest";
    place.killed_at(resumed, "logs/killed/stage-25/checkpoints/step_2");
    expect(place.train(resumed), 0);
    for stage in ["stage-75", "stage-25"] {
        let at = |run: &str| place.path(&format!("logs/{run}/{stage}/checkpoints/step_6"));
        same(&at("whole"), &at("killed"));
    }
    // A named model as a stage, and automatic stages.
    let args = "--inherit-from logs/big --stages 75,small.json --steps 2 --name named";
    expect(place.train(args), 0);
    let last = place.model("logs/named/stage-small/checkpoints/step_2");
    assert_eq!(last, ClipConfig::from_json(SMALL).unwrap());
    let args = "--inherit-from logs/big --stages 100,80,60 --prune-text --prune-step 3 --gate-lr 1 \
                --sparsity-warmup 0 --steps 5 --name auto";
    expect(place.train(args), 0);
    let path = "logs/auto/stage-60/checkpoints/step_2";
    assert_eq!(place.model(path).vision_cfg.width, 32);
}

#[test]
fn an_inherited_student_has_the_bigger_models_weights() {
    let place = Place::new();
    let args = "--model small.json --steps 1 --lr 1e-12 --inherit-from logs/big --name small";
    let output = expect(place.train(args), 0);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("inherits from logs/big: "), "{text}");
    let read = |run: &str, step: u64, name: &str| {
        let path = format!("logs/{run}/checkpoints/step_{step}/model.safetensors");
        let file = clip_distill::io::read(&place.path(&path)).unwrap();
        file.get(name).unwrap().as_f32().unwrap().to_vec()
    };
    // Text layers 0 and 2 of four.
    let name = |i: usize| format!("transformer.resblocks.{i}.mlp.c_fc.bias");
    let (small, big) = (read("small", 1, &name(1)), read("big", 2, &name(2)));
    for (a, b) in small.iter().zip(&big) {
        assert!((a - b).abs() < 1e-6, "{a}, not {b}");
    }
}

#[test]
fn what_cannot_be_inherited_is_one_clear_line() {
    let place = Place::new();
    for (args, words) in [
        (
            "--model small.json --inherit-from nowhere",
            "no checkpoint at nowhere",
        ),
        (
            "--model small.json --inherit-from logs/big --init x",
            "--init and --inherit-from",
        ),
        (
            "--model big.json --inherit-model small.json",
            "--inherit-model needs --inherit-from",
        ),
        (
            "--model ViT-T-16 --inherit-from logs/big",
            "logs/big: weights cannot be inherited: image: image_size is 32",
        ),
        (
            "--model small.json --inherit-from logs/big --inherit-model small.json",
            "does not fit the model",
        ),
        (
            "--model big.json --stages 75",
            "--stages needs --inherit-from",
        ),
        (
            "--inherit-from logs/big --stages 50,75",
            "--stages must fall",
        ),
        (
            "--model big.json --prune-text --prune-step 9",
            "leaves none of the run's 9 steps",
        ),
        (
            "--model big.json --target-sparsity 1",
            "--target-sparsity and --start-sparsity",
        ),
        (
            "--model big.json --logit-scale 0",
            "--logit-scale must be positive",
        ),
    ] {
        refuses(place.train(&format!("{args} --steps 9 --name x")), &[words]);
        let _ = std::fs::remove_dir_all(place.path("logs/x"));
    }
}
