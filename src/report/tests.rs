//! Reports of made-up runs: what is in the page, and that nothing can break it.

use super::*;
use crate::eval::{Near, Picture, Query};
use serde_json::json;

/// Elements that have no end tag.
const VOID: [&str; 3] = ["meta", "img", "br"];

/// A run's folder within `dir` that has logged `steps` steps.
fn run(dir: &Path, name: &str, steps: u64) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    let config = "model = \"demo\"\nmethod = \"<intra>\"\nsteps = 40\n";
    std::fs::write(folder.join("config.toml"), config).unwrap();
    let mut metrics = String::new();
    for step in 1..=steps {
        let x = step as f64;
        let mut line = json!({"step": step, "epoch": 0, "loss": 9.0 / x, "loss_clip": 5.0 / x,
            "lr": 1e-3, "scale": 14.3, "grad_norm": x, "samples_per_s": 800.0 + x, "data_wait": 0.01,
            "intra_image_ess": 0.5, "intra_image_negative": 0.25, "<script>": 1.0});
        for q in crate::train::anchors::QUANTILES {
            line[format!("intra_image_d_p{q}")] = json!(f64::from(q) / x);
            line[format!("intra_image_w_p{q}")] = json!(f64::from(q) / 50.0);
        }
        metrics += &format!("{line}\n");
    }
    std::fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
    let evaluation = |step: u64, x: f64| {
        json!({"step": step, "epoch": 0, "new-zeroshot-val-top1": x, "new-zeroshot-val-top5": 2.0 * x,
            "image_to_text_R@1": x, "image_to_text_R@5": x, "text_to_image_R@1": x})
    };
    let results = format!("{}\n{}\n", evaluation(1, 0.125), evaluation(steps, 0.25));
    std::fs::write(folder.join("results.jsonl"), results).unwrap();
    folder
}

/// Every element ends where it should; returns how often each begins.
fn elements(page: &str) -> std::collections::BTreeMap<String, usize> {
    let (mut open, mut counts) = (Vec::new(), std::collections::BTreeMap::new());
    let mut rest = page.strip_prefix("<!doctype html>").unwrap();
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').unwrap();
        rest = after;
        let name = |t: &str| t.split([' ', '/', '\n']).next().unwrap().to_string();
        if let Some(end) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(end), "before {after:.80}");
            continue;
        }
        *counts.entry(name(tag)).or_default() += 1;
        if ["script", "style"].contains(&tag) {
            rest = rest.split_once(&format!("</{tag}>")).unwrap().1;
        } else if !tag.ends_with('/') && !VOID.contains(&name(tag).as_str()) {
            open.push(name(tag));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    counts
}

fn picture(caption: &str) -> Picture {
    Picture {
        uri: "data:image/png;base64,AAAA".into(),
        caption: caption.into(),
    }
}

fn neighbours() -> Neighbours {
    let near = |shared| Near {
        picture: picture("a \"cat\" <&>"),
        similarity: 0.5,
        shared,
    };
    Neighbours {
        set: "new".into(),
        gallery: 77,
        models: vec!["teacher".into(), "student".into()],
        agreement: vec![1.0, 0.4],
        queries: vec![Query {
            picture: picture("dog"),
            nearest: vec![vec![near(true)], vec![near(true), near(false)]],
        }],
    }
}

#[test]
fn a_page_holds_everything_and_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = run(dir.path(), "one", 40);
    let path = write(&folder, &[]).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    let counts = elements(&page);
    // Evaluation: 2 of zero-shot, 2 of retrieval; loss and clip; 4 of the anchors; 5 of the optimisation
    // and one of an unknown key.
    assert_eq!(counts["svg"], 2 + 2 + 2 + 4 + 5 + 1);
    assert_eq!(counts["table"], 2);
    assert!(!counts.contains_key("img"));
    // The name of SVG in the script is no address.
    assert_eq!(page.matches("http:").count(), 1);
    assert_eq!(page.matches("src=").count(), 0);
    for words in [
        "Top-1 (%); one: 12.5 at step 1, 25.0 at step 40, between 12.5 and 25.0",
        "total (weighted sum of the terms); one: 9 at step 1, 0.225 at step 40",
        "Effective sample size (% of N); one: 50.0 at step 1",
        "&lt;script&gt;",
        "method = \"&lt;intra&gt;\"",
        "<small>of 40</small>",
    ] {
        assert!(page.contains(words), "no {words} in:\n{page}");
    }
    assert!(!page.contains("<intra>") && !page.contains("NaN"));
    // The same again: nothing in it depends on when it is made.
    write(&folder, &[]).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
}

#[test]
fn runs_are_drawn_into_the_same_charts() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (run(dir.path(), "one", 40), run(dir.path(), "two", 30));
    let extras = Extras {
        label: Some("intra & kd".into()),
        others: vec![
            Other {
                label: "alone".into(),
                folder: "../two".into(),
            },
            Other {
                label: "gone".into(),
                folder: "../gone".into(),
            },
        ],
        teacher: Map::from_iter([("new-zeroshot-val-top1".into(), json!(0.5))]),
        pictures: Some(Pictures {
            step: 40,
            neighbours: neighbours(),
        }),
    };
    extras.save(&one).unwrap();
    assert_eq!(Extras::load(&one).unwrap(), extras);
    let page = std::fs::read_to_string(write(&one, &[]).unwrap()).unwrap();
    let counts = elements(&page);
    // As above, and the two fans of the other run.
    assert_eq!(counts["svg"], 18);
    assert_eq!(counts["img"], 4);
    assert_eq!(page.matches("class=\"shared\"").count(), 1);
    for words in [
        "intra &amp; kd",
        "; alone: 12.5 at step 1, 25.0 at step 30",
        "; teacher: 50.0\"",
        "student 40.0 %",
        "a &quot;cat&quot; &lt;&amp;&gt;, cosine 0.50, shared",
    ] {
        assert!(page.contains(words), "no {words} in:\n{page}");
    }
    assert!(!page.contains("gone"));
    // On the command line, a folder that is no run's is an error.
    let page = std::fs::read_to_string(write(&two, &[one]).unwrap()).unwrap();
    assert_eq!(elements(&page)["svg"], 18);
    let error = write(&two, &[dir.path().into()]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("name a run's folder"), "{error}");
}

#[test]
fn runs_that_broke_off_have_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "model = \"demo\"\n").unwrap();
    let page = std::fs::read_to_string(write(&folder, &[]).unwrap()).unwrap();
    assert!(page.contains("Nothing is logged yet"));
    elements(&page);
    std::fs::write(
        folder.join("metrics.jsonl"),
        "{\"step\":1,\"loss\":2.5}\n{\"step\":2,",
    )
    .unwrap();
    let page = std::fs::read_to_string(write(&folder, &[]).unwrap()).unwrap();
    assert_eq!(elements(&page)["svg"], 1);
    std::fs::write(folder.join("report.json"), "{").unwrap();
    let error = write(&folder, &[]).unwrap_err();
    assert!(error.to_string().contains("report.json"), "{error}");
}
