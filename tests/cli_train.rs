//! The real `train` program: resuming to the bit, Ctrl-C, a full disk, and what it says about wrong
//! input.

use clip_distill::io::{self, Data};
use clip_distill::run::checkpoint::TrainState;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

#[path = "common/program.rs"]
mod program;
#[path = "common/tolerance.rs"]
mod tolerance;

use program::{Folder, RESNET, STUDENT, agree, expect, killed_at, refuses, same, wait_for};

const TEACHER: &str = r#"{"embed_dim": 24,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 10, "vocab_size": 700, "width": 32, "heads": 2, "layers": 1}}"#;

/// A folder with the models' configurations and, once trained, a teacher's weights.
struct Place {
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        let files = [("student.json", STUDENT), ("teacher.json", TEACHER)];
        Self {
            folder: Folder::new(&files),
        }
    }

    fn teacher(&self) {
        let args = "--train-data demo --model teacher.json --method clip --batch-size 16 --steps 2 \
                    --name teacher --workers 1 --threads 1";
        expect(self.train(args), 0);
    }

    fn checkpoint(&self, name: &str, step: u64) -> PathBuf {
        self.path(&format!("logs/{name}/checkpoints/step_{step}"))
    }
}

impl Deref for Place {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// A distillation of 12 steps that uses every loss, heads, and a teacher with its own vocabulary.
const RUN: &str = "--train-data demo --model student.json --teacher teacher.json \
    --teacher-checkpoint logs/teacher/checkpoints/step_2/model.safetensors --method intra-kd \
    --alpha-affinity 1 --alpha-cross-kd 1 --alpha-mfd 50 --alpha-gd 10 --alpha-afd 1 \
    --batch-size 24 --steps 12 --warmup 3 --augment affine --log-every 1 --workers 2 --threads 2 \
    --grad-clip-norm 1 --save-every-steps 1";

#[test]
fn killed_runs_resume_to_the_bit() {
    let place = Place::new();
    place.teacher();
    expect(place.train(&format!("{RUN} --name whole")), 0);
    let args = format!("{RUN} --name killed --threads 1 --workers 1");
    let mut resume = "";
    for step in [3, 6, 10] {
        let run = place.train(&format!("{args}{resume}"));
        killed_at(run, &place.checkpoint("killed", step));
        resume = " --resume latest";
    }
    // What a kill in the middle of a checkpoint leaves is no obstacle and goes away.
    let torn = place.path("logs/killed/checkpoints/.tmp-step_99");
    std::fs::create_dir_all(&torn).unwrap();
    std::fs::write(torn.join("model.safetensors"), "half").unwrap();
    expect(place.train(&format!("{args} --resume latest")), 0);
    assert!(!torn.exists());
    same(
        &place.checkpoint("whole", 12),
        &place.checkpoint("killed", 12),
    );
    let losses = |name: &str| -> Vec<(u64, f64)> {
        let lines = place.metrics(name).into_iter();
        lines
            .map(|v| (v["step"].as_u64().unwrap(), v["loss"].as_f64().unwrap()))
            .collect()
    };
    assert_eq!(losses("whole").len(), 12);
    assert_eq!(losses("whole"), losses("killed"));
}

/// Three ways through the same twelve batches of 24: at once, with every block computed twice, and
/// in three parts whose features meet in the losses.
#[test]
fn memory_savers_change_nothing() {
    let place = Place::new();
    place.teacher();
    let run = |name: &str, more: &str| {
        let args = format!("{RUN} --save-every-steps 12 --name {name} {more}");
        expect(place.train(&args), 0);
        place.metrics(name)
    };
    let whole = run("whole", "");
    run("again", "--grad-checkpointing");
    same(
        &place.checkpoint("whole", 12),
        &place.checkpoint("again", 12),
    );
    let parts = run(
        "parts",
        "--batch-size 8 --accum-freq 3 --grad-checkpointing",
    );
    assert_eq!(parts.len(), whole.len());
    for (step, (part, whole)) in parts.iter().zip(&whole).enumerate() {
        for term in [
            "loss",
            "loss_clip",
            "loss_crd",
            "loss_fd",
            "loss_icl",
            "loss_cross_kd",
            "loss_mfd",
            "loss_gd",
            "loss_afd",
            "loss_affinity",
            "loss_intra",
        ] {
            let (got, want) = (part[term].as_f64().unwrap(), whole[term].as_f64().unwrap());
            // Features, and so the first losses, are the same bits; afterwards the gradients' sums
            // over parts round differently.
            let allowed = if step == 0 { 0.0 } else { 1e-4 * want.abs() };
            assert!(
                (got - want).abs() <= allowed,
                "step {step} {term}: {got}, not {want}"
            );
        }
    }
    // A run in parts that stops within an epoch goes on where it was.
    let args = format!("{RUN} --batch-size 8 --accum-freq 3 --grad-checkpointing --name halves");
    expect(
        place.train(&format!("{args} --steps 12 --save-every-steps 5")),
        0,
    );
    std::fs::remove_dir_all(place.checkpoint("halves", 12)).unwrap();
    std::fs::remove_dir_all(place.checkpoint("halves", 10)).unwrap();
    expect(place.train(&format!("{args} --resume latest")), 0);
    same(
        &place.checkpoint("parts", 12),
        &place.checkpoint("halves", 12),
    );
    refuses(
        place.train(
            "--train-data demo --model student.json --method clip --batch-size 500 --accum-freq 4",
        ),
        &["--batch-size 500 times --accum-freq 4", "1888 pairs"],
    );
}

/// A ResNet learns from a ResNet. Its running statistics are part of its weights, so of what a resumed
/// run goes on from; each batch counts in them once, though every bottleneck is computed twice, and
/// evaluating in between does not count.
#[test]
fn resnets_resume_to_the_bit() {
    let place = Place::new();
    std::fs::write(place.path("resnet.json"), RESNET).unwrap();
    let common = "--train-data demo --model resnet.json --batch-size 8 --log-every 1 --workers 1";
    let args = format!("{common} --method clip --steps 2 --name teacher");
    expect(place.train(&args), 0);
    let run = format!(
        "{common} --method intra-kd --teacher resnet.json --accum-freq 2 --steps 4 \
         --teacher-checkpoint logs/teacher/checkpoints/step_2/model.safetensors"
    );
    let whole = "--grad-checkpointing --save-every-steps 2 --eval-every 2 --name whole";
    expect(place.train(&format!("{run} {whole}")), 0);
    expect(
        place.train(&format!("{run} --save-every-steps 2 --name halves")),
        0,
    );
    std::fs::remove_dir_all(place.checkpoint("halves", 4)).unwrap();
    expect(
        place.train(&format!("{run} --name halves --resume latest")),
        0,
    );
    same(
        &place.checkpoint("whole", 4),
        &place.checkpoint("halves", 4),
    );
    let path = place.checkpoint("whole", 4).join("model.safetensors");
    let file = io::read(&path).unwrap();
    let norm = "visual.layer4.0.bn3";
    let counter = file.get(&format!("{norm}.num_batches_tracked")).unwrap();
    assert_eq!(counter.data, Data::I64(vec![8]));
    let variance = file.get(&format!("{norm}.running_var")).unwrap();
    assert!(variance.as_f32().unwrap().iter().all(|v| *v != 1.0));
    let text = expect(place.train(&format!("{run} --dry-run")), 0).stdout;
    assert!(String::from_utf8(text).unwrap().contains("parameters"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let place = Place::new();
    let args = "--train-data demo --model student.json --method clip --batch-size 16 --steps 100000 \
                --name c --log-every 1 --workers 1";
    let mut child = place.train(args).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = place.path("logs/c/metrics.jsonl");
    wait_for(&mut child, &metrics);
    while std::fs::metadata(&metrics).unwrap().len() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("--config logs/c/config.toml --resume latest"),
        "{last}"
    );
    // The command that it printed works; three more steps are enough to see.
    let newest = std::fs::read_dir(place.path("logs/c/checkpoints"))
        .unwrap()
        .next()
        .unwrap();
    let step = TrainState::load(&newest.unwrap().path())
        .unwrap()
        .position
        .step;
    let more = format!(
        "--config logs/c/config.toml --resume latest --steps {}",
        step + 3
    );
    expect(place.train(&more), 0);
    assert!(place.checkpoint("c", step + 3).is_dir());
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let place = Place::new();
    let args =
        "--train-data demo --model student.json --method clip --batch-size 16 --name d --workers 1";
    expect(place.train(&format!("{args} --steps 2")), 0);
    let old = place.checkpoint("d", 2);
    let before = TrainState::load(&old).unwrap();
    // Files over 64 blocks cannot be written; the signal of that is ignored, as an error follows.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} {args} --steps 4 --resume latest",
        env!("CARGO_BIN_EXE_train")
    );
    let mut shell = Command::new("sh");
    shell.current_dir(place.path("")).args(["-c", &script]);
    let output = expect(shell, 1);
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("train: cannot write") && last.contains("size limit"),
        "{text}"
    );
    assert_eq!(TrainState::load(&old).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(place.path("logs/d/checkpoints"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    expect(place.train(&format!("{args} --steps 4 --resume latest")), 0);
}

#[test]
fn configuration_files() {
    let place = Place::new();
    // CLIP-KD's spellings, and underscores.
    let args = "--train_data=demo --model student.json --t-model demo --method clip-kd \
                --alpha_ckd_loss 0 --alpha_fd_loss 5 --batch_size 8 --steps 3 --dry-run";
    refuses(
        place.train(&args.replace("--t-model demo", "")),
        &["--teacher"],
    );
    let clip = "--train_data demo --model student.json --method clip --batch_size 8 --workers 1";
    expect(
        place.train(&format!("{clip} --steps 2 --lr 0.002 --name a")),
        0,
    );
    // A run's config.toml is a valid --config, and a flag wins over it.
    expect(
        place.train("--config logs/a/config.toml --name b --lr 0.001"),
        0,
    );
    let config = |name: &str| {
        let text =
            std::fs::read_to_string(place.path(&format!("logs/{name}/config.toml"))).unwrap();
        text.parse::<toml::Table>().unwrap()
    };
    let (a, b) = (config("a"), config("b"));
    assert_eq!(a["lr"].as_float(), Some(0.002));
    assert_eq!(b["lr"].as_float(), Some(0.001));
    assert_eq!(a["batch-size"], b["batch-size"]);
    std::fs::write(place.path("bad.toml"), "learning-rate = 1\n").unwrap();
    refuses(
        place.train("--config bad.toml"),
        &["bad.toml", "learning-rate"],
    );
    std::fs::write(place.path("bad.toml"), "lr = \"fast\"\n").unwrap();
    refuses(
        place.train("--config bad.toml --train-data demo"),
        &["bad.toml", "lr"],
    );
    std::fs::write(place.path("bad.toml"), "lr = = 1\n").unwrap();
    refuses(place.train("--config bad.toml"), &["bad.toml"]);
    refuses(place.train("--config none.toml"), &["none.toml"]);
}

#[test]
fn wrong_input_is_one_clear_line() {
    let place = Place::new();
    let base = "--train-data demo --model student.json --method clip --steps 2 --batch-size 8 \
                --name x --workers 1";
    let bad = |extra: &str, words: &[&str]| refuses(place.train(&format!("{base} {extra}")), words);
    bad("--learning-rate 3", &["--learning-rate"]);
    bad("--lr 0", &["--lr"]);
    bad("--lr fast", &["--lr", "fast"]);
    bad("--aug-scale 0.5 1.5", &["--aug-scale"]);
    bad("--batch-size 1", &["--batch-size"]);
    bad("--model ViT-Z-9", &["ViT-Z-9", "ViT-T-16"]);
    bad("--model none.json", &["none.json"]);
    let half = "--backend cpu --precision amp_fp16";
    bad(half, &["--precision", "amp_bf16", "fp32"]);
    bad("--train-data none/{00..01}.tar", &["none/00.tar"]);
    bad("--train-data none.csv", &["none.csv"]);
    bad(
        "--batch-size 1000000 --shuffle-buffer 1",
        &["batch", "1000000"],
    );
    bad("--init none.safetensors", &["none.safetensors"]);
    bad("--resume logs/none", &["logs/none"]);
    bad("--method intra-kd", &["--teacher"]);
    bad("--alpha-crd nan", &["--alpha-crd"]);
    bad("--alpha_gd_loss=-1", &["--alpha-gd"]);
    bad("--mask-ratio 1", &["--mask-ratio"]);
    bad("--method tinyclip", &["--teacher"]);
    let masked = "--teacher demo --alpha-mfd 1";
    let none_left = format!("{masked} --mask-ratio 0.95");
    bad(&none_left, &["--mask-ratio 0.95", "16 patches"]);
    std::fs::write(place.path("resnet.json"), RESNET).unwrap();
    let resnet = format!("{masked} --model resnet.json");
    bad(&resnet, &["--alpha-mfd", "ResNet"]);
    bad(&format!("{resnet} --dry-run"), &["--alpha-mfd", "ResNet"]);
    // A teacher that no loss reads is no error, but it is said.
    let unread = base.replace("--name x", "--name unread --teacher demo");
    let said = expect(place.train(&unread), 0).stderr;
    assert!(
        String::from_utf8(said)
            .unwrap()
            .contains("--teacher demo is not read")
    );
    bad(
        "--method clip-kd --teacher teacher.json",
        &["--teacher-checkpoint"],
    );
    bad("--alpha-clip 0", &["weight"]);
    refuses(place.train("--model student.json"), &["--train-data"]);
    // Weights of another model: all that differs is named.
    place.teacher();
    let weights = "logs/teacher/checkpoints/step_2/model.safetensors";
    bad(
        &format!("--init {weights}"),
        &[weights, "text_projection", "visual.proj"],
    );
    std::fs::write(
        place.path("torn.safetensors"),
        &std::fs::read(place.path(weights)).unwrap()[..999],
    )
    .unwrap();
    bad("--init torn.safetensors", &["torn.safetensors"]);
    // A run is not overwritten by another of its name.
    expect(place.train(base), 0);
    bad("", &["logs/x", "--resume latest"]);
    // Resuming with another model, or other losses.
    let resumed = format!("--resume latest --model teacher.json {}", "--steps 4");
    bad(&resumed, &["does not fit"]);
}

#[test]
fn without_a_gpu_cuda_says_what_is_missing_and_auto_takes_the_cpu() {
    let place = Place::new();
    let base = "--train-data demo --model student.json --method clip --steps 1 --batch-size 8 \
                --name x --workers 1";
    // A driver that is present is made to show no GPU.
    let run = |extra: &str| {
        let mut command = place.train(&format!("{base} {extra}"));
        command
            .env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("CLIP_DISTILL_CUDA_DEVICE")
            .env_remove("CLIP_DISTILL_CUDA_PATH");
        command
    };
    for device in ["", "--device 3", "--precision amp_bf16"] {
        refuses(
            run(&format!("--backend cuda {device}")),
            &["--backend cuda", "NVIDIA"],
        );
    }
    refuses(
        run("--backend cuda --precision amp_fp16"),
        &["--precision", "amp_fp16", "amp_bf16"],
    );
    refuses(run("--backend cuda --device first"), &["--device", "first"]);
    refuses(
        run("--device imagined"),
        &["--device imagined", "no such GPU"],
    );
    let mut other = run("--backend cuda");
    other.env("CLIP_DISTILL_CUDA_DEVICE", "imagined");
    refuses(other, &["CLIP_DISTILL_CUDA_DEVICE=imagined", "emulated"]);
    let said = expect(run("--backend auto"), 0).stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("(auto: ") && said.contains("NVIDIA"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn help_and_dry_run() {
    let place = Place::new();
    let help = expect(place.train("--help"), 0);
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("--intra-weights")
    );
    let args =
        "--train-data demo --model student.json --method clip --batch-size 8 --epochs 2 --dry-run";
    let text = String::from_utf8(expect(place.train(args), 0).stdout).unwrap();
    assert!(
        text.contains("parameters") && text.contains("epochs"),
        "{text}"
    );
    let args = "--train-data demo --model student.json --teacher demo --method tinyclip --alpha-mfd 1 \
                --alpha-afd 1 --batch-size 8 --epochs 2 --clip-kd-compat --dry-run";
    let text = String::from_utf8(expect(place.train(args), 0).stdout).unwrap();
    assert!(
        text.contains("student masked image") && text.contains("heads"),
        "{text}"
    );
    assert!(!place.path("logs").exists());
}

#[test]
fn the_emulated_device_trains_as_the_cpu_does() {
    let place = Place::new();
    place.teacher();
    for (student, teacher) in [("student.json", "demo"), ("resnet.json", "teacher.json")] {
        // A ResNet sees whole images.
        let (masked, terms_of_loss) = match student {
            "student.json" => ("--alpha-mfd 50", 11),
            _ => ("", 10),
        };
        let weights = match teacher {
            "demo" => "",
            _ => "--teacher-checkpoint logs/teacher/checkpoints/step_2/model.safetensors",
        };
        std::fs::write(place.path("resnet.json"), RESNET).unwrap();
        let run = |name: &str, flags: &str| {
            let mut command = place.train(&format!(
                "--train-data demo --model {student} --teacher {teacher} {weights} --method intra-kd \
                 {masked} --alpha-affinity 1 --alpha-cross-kd 1 --alpha-gd 10 --alpha-afd 1 \
                 --batch-size 8 --steps 4 --log-every 1 --workers 1 --lr 1e-3 --warmup 1 --name {name} {flags}"
            ));
            command.env("CLIP_DISTILL_CUDA_DEVICE", "emulated");
            let told = String::from_utf8(expect(command, 0).stderr).unwrap();
            assert_eq!(
                told.contains("replayed as CUDA graphs: "),
                flags.contains("cuda"),
                "{told}"
            );
            place.terms(name)
        };
        let want = run(&format!("{student}-cpu"), "--backend cpu");
        assert_eq!((want.len(), want[0].len()), (4, terms_of_loss));
        for (precision, tolerance) in [
            ("fp32", f64::from(tolerance::TRAJECTORY)),
            ("amp_bf16", tolerance::TERM_BF16),
        ] {
            let name = format!("{student}-{precision}");
            let got = run(&name, &format!("--backend cuda --precision {precision}"));
            agree(&name, &got, &want, tolerance);
        }
    }
}
