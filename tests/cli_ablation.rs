//! `train --ablation`: every row with every seed, what is left after a stop, and one table.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;

#[path = "common/program.rs"]
mod program;

use program::Folder;

const STUDENT: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 8, "vocab_size": 600, "width": 16, "heads": 1, "layers": 1}}"#;

/// Two trained rows and the teacher inside the program.
const PLAN: &str = r#"
title = "two rows"
seeds = [1, 2]
baseline = "alone"
columns = [{ name = "sketches", metric = "demo-sketch-zeroshot-val-top5" }, { name = "none", metric = "x" }]
[base]
model = "student.json"
teacher = "demo"
train-data = "demo"
batch-size = 16
steps = 2
warmup = 1
[[rows]]
row = "teacher"
evaluate-teacher = true
[[rows]]
row = "alone"
method = "clip"
[[rows]]
row = "+ distilled"
alpha_icl = 0.5
[reference]
title = "elsewhere"
note = "other data"
columns = ["IN"]
rows = [{ row = "alone", values = [30] }, { row = "+ distilled", values = [43.25] }]
"#;

struct Place {
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: Folder::new(&[("student.json", STUDENT), ("two.toml", PLAN)]),
        }
    }

    fn plan(&self, text: &str) {
        std::fs::write(self.path("two.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    fn ablation(&self, more: &str) -> Output {
        let mut command = self.folder.train(&format!("--ablation two.toml {more}"));
        command.output().unwrap()
    }

    /// The share that a run's own record holds, in per cent.
    fn value(&self, run: &str) -> f64 {
        let text = std::fs::read_to_string(self.path(&format!("logs/two/{run}/ablation.json")));
        let record: Value = serde_json::from_str(&text.unwrap()).unwrap();
        let metrics = &record["metrics"]["demo-sketch-zeroshot-val-top5"];
        100.0 * metrics.as_f64().unwrap()
    }
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_ablation_goes_on_and_ends_in_a_table() {
    let place = Place::new();
    place.plan(&PLAN.replace("[1, 2]", "[1]"));
    let first = place.ablation("");
    let (_, stderr) = words(&first);
    assert_eq!(first.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("3 runs in logs/two; 0 done already"),
        "{stderr}"
    );

    // A run that broke off before its first checkpoint, and a second seed.
    std::fs::remove_file(place.path("logs/two/alone-seed1/ablation.json")).unwrap();
    std::fs::remove_dir_all(place.path("logs/two/alone-seed1/checkpoints")).unwrap();
    place.plan(PLAN);
    let second = place.ablation("--threads 1");
    let (stdout, stderr) = words(&second);
    assert_eq!(second.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("5 runs in logs/two; 2 done already"),
        "{stderr}"
    );
    assert!(!stderr.contains("distilled-seed1"), "{stderr}");

    let values = |row: &str| [1, 2].map(|seed| place.value(&format!("{row}-seed{seed}")));
    let (alone, distilled) = (values("alone"), values("distilled"));
    let mean = |x: [f64; 2]| (x[0] + x[1]) / 2.0;
    // Of two values: their distance over √2.
    let sd = |x: [f64; 2]| (x[0] - x[1]).abs() / 2f64.sqrt();
    let apart = [distilled[0] - alone[0], distilled[1] - alone[1]];
    let row = format!(
        "| + distilled | {:.1} ± {:.1} ({:+.1} ± {:.1}) | – |",
        mean(distilled),
        sd(distilled),
        mean(apart),
        sd(apart)
    );
    let markdown = std::fs::read_to_string(place.path("logs/two/ablation.md")).unwrap();
    assert!(markdown.contains(&row), "no {row} in\n{markdown}");
    // 43.25 − 30, from the file.
    assert!(
        markdown.contains("| + distilled | 43.2 (+13.2) |"),
        "{markdown}"
    );
    let teacher = format!("{:.1}", place.value("teacher"));
    assert!(
        stdout.contains(&teacher) && stdout.contains("+ distilled"),
        "{stdout}"
    );
    let page = std::fs::read_to_string(place.path("logs/two/ablation.html")).unwrap();
    assert!(
        page.contains("<svg") && page.contains("other data"),
        "{page}"
    );
    assert!(!page.contains("http"), "a page that needs a network");

    // All is done: nothing is run, the same table again.
    let (third, stderr) = words(&place.ablation(""));
    assert!(stderr.contains("5 done already"), "{stderr}");
    let table = |text: &str| {
        text.lines()
            .filter(|l| !l.contains("took"))
            .collect::<String>()
    };
    assert_eq!(table(&third), table(&stdout));

    // Other settings would make another table of the same name.
    let other = place.ablation("--lr 1e-4");
    let (_, stderr) = words(&other);
    assert_eq!(other.status.code(), Some(2));
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("--lr was 0.001, is 0.0001"), "{last}");
}

/// The teacher's features of a seed's batches are computed for the first row and read by the second.
#[test]
fn a_row_that_shares_its_teacher_equals_a_run_alone() {
    let place = Place::new();
    let shared = PLAN.replace("\"clip\"", "\"clip-kd\"");
    place.plan(&shared.replace("[1, 2]", "[1]"));
    let output = place.ablation("--steps 4 --log-every 1 --accum-freq 2");
    let (_, stderr) = words(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    // Four steps in two parts each.
    let known = "distilled-seed1: 8 batches of the teacher's features were cached by earlier rows";
    assert!(stderr.contains(known), "{stderr}");
    let alone = "--model student.json --teacher demo --train-data demo --batch-size 16 --warmup 1 --seed 1 \
        --alpha-icl 0.5 --steps 4 --log-every 1 --accum-freq 2 --name apart";
    program::expect(place.folder.train(alone), 0);
    let losses = |run: &str| {
        let lines = place.folder.metrics(run).into_iter();
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
        let keys = ["loss", "loss_icl", "loss_intra", "grad_norm"];
        lines
            .map(|line| keys.map(|key| number(&line, key)))
            .collect::<Vec<_>>()
    };
    let (got, want) = (losses("two/distilled-seed1"), losses("apart"));
    assert_eq!(want.len(), 4);
    assert_eq!(got, want);
}

#[test]
fn a_row_that_fails_leaves_the_others() {
    let place = Place::new();
    // A learning rate that no loss survives.
    place.plan(
        &PLAN
            .replace("alpha_icl = 0.5", "lr = 1e30")
            .replace("[1, 2]", "[1]"),
    );
    let output = place.ablation("--steps 6");
    let (_, stderr) = words(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.contains("1 of 3 runs failed") && last.contains("distilled-seed1"),
        "{last}"
    );
    assert!(place.value("alone-seed1") > 0.0);
    let markdown = std::fs::read_to_string(place.path("logs/two/ablation.md")).unwrap();
    assert!(markdown.contains("| + distilled | – | – |"), "{markdown}");
    assert!(
        markdown.contains("So far 2 of 3 runs are done."),
        "{markdown}"
    );
}

#[test]
fn wrong_plans_are_refused() {
    let place = Place::new();
    for (more, word) in [
        ("--method clip", "--method cannot be given"),
        ("--seed 3", "--seed"),
        ("--resume latest", "--resume"),
        ("--lr=-1", "--lr must be positive"),
    ] {
        let output = place.ablation(more);
        let (_, stderr) = words(&output);
        assert_eq!(output.status.code(), Some(2), "{more}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{more}: {stderr}");
        assert!(stderr.contains(word), "{more}: {stderr}");
    }
    std::fs::remove_file(place.path("two.toml")).unwrap();
    let (_, stderr) = words(&place.ablation(""));
    for word in ["cannot read two.toml", "poster and baselines"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}
