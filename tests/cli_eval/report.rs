//! What a run leaves for people to look at: report.html, TensorBoard's files, and what metrics.jsonl says
//! of the anchors.

use super::place::{CONFIG, Place};
use serde_json::Value;

const RUN: &str = "--train-data demo --model student.json --teacher demo --method intra-kd \
                   --batch-size 16 --warmup 1 --workers 1 --log-every 2 --eval-every 2";

fn run(place: &Place, args: &str) -> String {
    place.run("train", &format!("{RUN} {args}"))
}

fn read(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path(name)).unwrap()
}

#[test]
fn runs_have_a_report() {
    let place = Place::new();
    place.write("student.json", CONFIG);
    let said = run(&place, "--steps 5 --name a --intra-modality image");
    assert!(said.contains("report: logs/a/report.html"), "{said}");
    let lines: Vec<Value> = read(&place, "logs/a/metrics.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|line: &Value| line.get("data").is_none())
        .collect();
    // Steps 1, 2, 4 and 5.
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let number = |key: &str| {
            let value = line[format!("intra_image_{key}")].as_f64();
            value.unwrap_or_else(|| panic!("no {key} in {line}"))
        };
        let quantiles =
            |of: &str| [0, 5, 25, 50, 75, 95, 100].map(|q| number(&format!("{of}_p{q}")));
        let (d, w) = (quantiles("d"), quantiles("w"));
        assert!(d.is_sorted() && d[0] >= 0.0 && w.is_sorted() && w[6] >= 1.0);
        // By default an anchor weighs as its divergence: the ratio is the same everywhere.
        for (d, w) in d.iter().zip(&w) {
            assert!((w * number("d_p100") - d * number("w_p100")).abs() < 1e-6 * d.max(1.0));
        }
        // c of icl begins at 1/0.07 and moves by at most the learning rate a step.
        let scale = line["scale_icl"].as_f64().unwrap();
        assert!((scale - 1.0 / 0.07).abs() < 0.1, "{scale}");
        // L = Σd²/Σd is between the mean and the largest; g_i < 0 where d_i < L/2.
        let loss = line["loss_intra"].as_f64().unwrap();
        assert!(loss <= d[6] * 1.0001 && loss >= d[0]);
        assert!((1.0 / 16.0..=1.0).contains(&number("ess")));
        assert_eq!(number("negative") > 0.0, d[0] < loss / 2.0);
        assert!(
            !line
                .as_object()
                .unwrap()
                .keys()
                .any(|k| k.starts_with("intra_text"))
        );
    }
    let page = read(&place, "logs/a/report.html");
    for words in [
        "<h2>Evaluation</h2>",
        "<h3>Among images</h3>",
        "<h2>Nearest neighbours</h2>",
        "the five of 944 that are nearest",
        "<h4>teacher</h4>",
        "demo-twemoji",
    ] {
        assert!(page.contains(words), "no {words}");
    }
    assert_eq!(page.matches("<img ").count(), 8 * 11);
    assert!(!page.contains("Among texts"));

    // Again from the folder, and with another run in its charts.
    std::fs::remove_file(place.path("logs/a/report.html")).unwrap();
    let again = "--report logs/a";
    assert_eq!(place.run("train", again), "report: logs/a/report.html\n");
    assert_eq!(read(&place, "logs/a/report.html"), page);
    run(&place, "--steps 2 --name b --method clip");
    place.run("train", "--report logs/a --report logs/b");
    let both = read(&place, "logs/a/report.html");
    assert!(both.contains("; a: ") && both.contains("; b: ") && !page.contains("; b: "));
    place.refuses("train", "--report logs", &["logs", "name a run's folder"]);

    // A run that goes on begins another file for TensorBoard.
    let events = || {
        std::fs::read_dir(place.path("logs/a/tensorboard"))
            .unwrap()
            .count()
    };
    assert_eq!(events(), 1);
    run(
        &place,
        "--steps 6 --name a --intra-modality image --resume latest",
    );
    assert_eq!(events(), 2);
    assert!(read(&place, "logs/a/report.html").contains("<small>of 6</small>"));
}
