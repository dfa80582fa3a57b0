//! `train` evaluates as `eval` does, when its flags say.

use super::place::{CONFIG, Entry, Place, picture, sentence};
use serde_json::Value;

#[test]
fn epochs_are_evaluated() {
    let place = Place::new();
    let entries = |from: u64, to: u64| -> Vec<Entry> {
        (from..to)
            .flat_map(|i| {
                let class = (i % 3).to_string().into_bytes();
                [
                    (format!("{i}.png"), picture(i)),
                    (format!("{i}.txt"), sentence(i).into_bytes()),
                    (format!("{i}.cls"), class),
                ]
            })
            .collect()
    };
    place.write_tar("train.tar", &entries(0, 16));
    place.write_tar("val.tar", &entries(16, 36));
    place.write("names.txt", "red\nhouse\nboats\n");
    place.write("config.json", CONFIG);
    let sets = "--val-data val.tar --zeroshot-data val.tar --classnames names.txt";
    let run = format!(
        "--train-data train.tar --model config.json --method clip --batch-size 8 --epochs 3 \
         --warmup 2 --workers 1 --name x --val-frequency 2 {sets}"
    );
    place.run("train", &run);
    let lines = |name: &str| -> Vec<Value> {
        let path = place.path(&format!("logs/{name}/results.jsonl"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let found = lines("x");
    let seen: Vec<_> = found
        .iter()
        .map(|l| {
            let has = |name: &str| l.get(name).is_some();
            (
                l["epoch"].as_u64().unwrap(),
                l["step"].as_u64().unwrap(),
                has("zeroshot-val-top1"),
                has("image_to_text_R@1"),
            )
        })
        .collect();
    // Retrieval every other epoch, and after the last.
    assert_eq!(
        seen,
        [(1, 2, true, false), (2, 4, true, true), (3, 6, true, true)]
    );
    // `eval` finds the same in the run's newest checkpoint.
    place.run(
        "eval",
        &format!("logs/x {sets} --out x.json --batch-size 8"),
    );
    let results = place.json("x.json");
    assert_eq!(results["model"], "x/step_6");
    let metrics = results["metrics"].as_object().unwrap();
    assert_eq!(metrics.len(), 14);
    for (name, value) in metrics {
        let (a, b) = (value.as_f64().unwrap(), found[2][name].as_f64().unwrap());
        assert!((a - b).abs() < 1e-12, "{name}: {a} {b}");
    }
    // A run of --steps has its evaluation at its end, and its file holds the flags.
    place.run("train", "--config logs/x/config.toml --steps 3 --name y");
    let steps: Vec<_> = lines("y")
        .iter()
        .map(|l| l["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 3]);
    place.run(
        "train",
        "--config logs/x/config.toml --name z --zeroshot-frequency 0 --val-frequency 0",
    );
    assert!(lines("z").is_empty());
    // What is evaluated on says nothing about the training: a resumed run may change it.
    place.run(
        "train",
        "--config logs/z/config.toml --resume latest --epochs 4 --zeroshot-frequency 1",
    );
    let seen: Vec<_> = lines("z")
        .iter()
        .map(|l| l["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(seen, [4]);
    // Wrong evaluation data cost no training.
    let bad = run
        .replace("--name x", "--name bad")
        .replace("names.txt", "none.txt");
    place.refuses("train", &bad, &["none.txt"]);
    assert!(!place.path("logs/bad").exists());
    let bad = "--train-data train.tar --model config.json --method clip --eval-every 2";
    place.refuses("train", bad, &["--eval-every", "--val-data"]);
}
