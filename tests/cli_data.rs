//! The real programs on data that are not as they should be: what is counted, said and refused, and how long an
//! epoch is.

use serde_json::Value;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

#[path = "common/program.rs"]
mod program;

use program::{Folder, STUDENT, expect, killed_at, refuses, same};

const RUN: &str = "--model student.json --method clip --batch-size 4 --lr 1e-3 --warmup 1 --log-every 1 \
                   --workers 2 --threads 1 --backend cpu";

fn picture(n: u8) -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(20, 12, |x, y| {
        image::Rgb([n.wrapping_mul(21), (x * 12) as u8, (y * 20) as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    pixels
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A shard of these members at `path`.
fn shard(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    builder.finish().unwrap();
}

/// `n` pairs, numbered from `first`; those in `bad` have no picture that decodes.
fn pairs(first: usize, n: usize, bad: &[usize]) -> Vec<(String, Vec<u8>)> {
    let each = first..first + n;
    each.flat_map(|i| {
        let picture = match bad.contains(&i) {
            true => b"no picture".to_vec(),
            false => picture(i as u8),
        };
        let text = format!("picture number {i}").into_bytes();
        [
            (format!("{i:03}.png"), picture),
            (format!("{i:03}.txt"), text),
        ]
    })
    .collect()
}

fn place() -> Folder {
    let place = Folder::new(&[("student.json", STUDENT)]);
    shard(&place.path("a.tar"), &pairs(0, 10, &[]));
    shard(&place.path("b.tar"), &pairs(10, 6, &[]));
    place
}

fn train(place: &Folder, data: &str, name: &str, more: &str) -> Command {
    place.train(&format!("{RUN} --train-data {data} --name {name} {more}"))
}

fn said(command: Command, code: i32) -> String {
    String::from_utf8(expect(command, code).stderr).unwrap()
}

fn steps(place: &Folder, run: &str) -> u64 {
    place.metrics(run).last().unwrap()["step"].as_u64().unwrap()
}

/// What --dry-run plans is what is made, whatever the length of an epoch and whatever is undecodable.
#[test]
fn the_steps_planned_are_the_steps_made() {
    let place = place();
    shard(&place.path("holes.tar"), &pairs(20, 16, &[22, 23, 30]));
    let holes = "--max-bad-fraction 0.5";
    for (name, data, more, epoch) in [
        ("whole", "a.tar::b.tar", "", 4),
        ("more", "a.tar", "--train-num-samples 24", 6),
        ("less", "a.tar::b.tar", "--train-num-samples 8", 2),
        (
            "factors",
            "a.tar::b.tar",
            "--train-data-upsampling-factors 3::1",
            9,
        ),
        (
            "ratio",
            "a.tar::b.tar",
            "--train-data-upsampling-factors 0.001::0.01 --train-num-samples 20",
            5,
        ),
        (
            "resampled",
            "a.tar::b.tar",
            "--dataset-resampled --train-num-samples 12",
            3,
        ),
        ("holes", "holes.tar", holes, 4),
    ] {
        let epochs = 2;
        let more = format!("{more} --epochs {epochs}");
        let plan = expect(train(&place, data, name, &format!("{more} --dry-run")), 0);
        let plan = String::from_utf8(plan.stdout).unwrap();
        let planned = format!("steps    {} of 4 pairs ({epoch} in each", epochs * epoch);
        assert!(plan.contains(&planned), "{name}: {plan}");
        expect(train(&place, data, name, &more), 0);
        assert_eq!(steps(&place, name), epochs * epoch, "{name}");
        // The schedule ends where it should: with the cosine's last step after one of warm-up.
        let total = (epochs * epoch) as f64;
        let want = 0.5e-3 * (1.0 + ((total - 2.0) / (total - 1.0) * std::f64::consts::PI).cos());
        let last = place.metrics(name).pop().unwrap();
        let rate = last["lr"].as_f64().unwrap();
        assert!((rate - want).abs() < 1e-9, "{name}: {rate}, not {want}");
        assert_eq!(place.accounts(name).len() as u64, epochs, "{name}");
    }
}

/// An epoch that goes on where the last one ended, killed at two places and resumed.
#[test]
fn epochs_of_any_length_resume_to_the_bit() {
    let place = place();
    let more = "--train-num-samples 24 --epochs 2 --save-every-steps 1 --shuffle-buffer 5";
    expect(train(&place, "a.tar", "whole", more), 0);
    let more = format!("{more} --workers 1");
    let checkpoint = |step: u64| place.path(&format!("logs/killed/checkpoints/step_{step}"));
    killed_at(train(&place, "a.tar", "killed", &more), &checkpoint(4));
    let more = format!("{more} --resume latest");
    killed_at(train(&place, "a.tar", "killed", &more), &checkpoint(8));
    expect(train(&place, "a.tar", "killed", &more), 0);
    same(
        &place.path("logs/whole/checkpoints/step_12"),
        &checkpoint(12),
    );
}

#[test]
fn what_is_skipped_is_counted_and_said_once() {
    let place = place();
    let mut files = pairs(0, 12, &[3]);
    files.retain(|(name, _)| name != "005.txt");
    files.push(("Mr. X.png".into(), picture(1)));
    files.push(("Mr. X.txt".into(), b"Mr. X".to_vec()));
    shard(&place.path("odd.tar"), &files);
    let bad = "--epochs 2 --max-bad-fraction 0.5";
    let text = said(train(&place, "odd.tar", "odd", bad), 0);
    for words in [
        "missing caption: odd.tar: 005; skipped",
        "name with dots: odd.tar: Mr. X.png; skipped",
        "undecodable image: 003: ",
    ] {
        assert_eq!(text.matches(words).count(), 1, "{words:?} in {text}");
    }
    let accounts = place.accounts("odd");
    assert_eq!(accounts.len(), 2);
    for account in accounts {
        let skipped = &account["skipped"];
        assert_eq!(skipped["missing caption"]["count"], 1);
        assert_eq!(skipped["missing caption"]["example"], "odd.tar: 005");
        assert_eq!(skipped["name with dots"]["count"], 1);
        assert_eq!(account["noted"]["unused entry"]["count"], 1);
    }
    let report = std::fs::read_to_string(place.path("logs/odd/report.html")).unwrap();
    assert!(report.contains("missing caption") && report.contains("odd.tar: 005"));
    // The default puts up with one in a hundred.
    refuses(
        train(&place, "odd.tar", "strict", ""),
        &[
            "2 of 13 pairs",
            "--max-bad-fraction 0.01",
            "missing caption",
        ],
    );
    // Undecodable pictures are known when they have been seen.
    shard(&place.path("holes.tar"), &pairs(0, 16, &[2, 3]));
    refuses(
        train(&place, "holes.tar", "holes", "--epochs 1"),
        &["2 of 16 pairs", "undecodable image (00"],
    );
}

#[test]
fn a_run_without_pairs_says_what_it_found() {
    let place = place();
    let texts: Vec<_> = pairs(0, 8, &[]);
    let images: Vec<_> = texts
        .iter()
        .filter(|(n, _)| n.ends_with("png"))
        .cloned()
        .collect();
    shard(&place.path("images.tar"), &images);
    std::fs::write(place.path("page.tar"), "<!DOCTYPE html><html>404</html>").unwrap();
    let any = "--max-bad-fraction 1";
    for (data, more, words) in [
        (
            "images.tar",
            any,
            &["no usable pair", "8 missing caption", "--json-text-key"][..],
        ),
        (
            "page.tar",
            any,
            &["no usable pair", "page.tar: is an HTML page"],
        ),
        ("page.tar", "", &["1 of 1 shards", "HTML page"]),
        (
            "a.tar",
            "--image-key jpg --max-bad-fraction 1",
            &["10 missing image", "--image-key"],
        ),
        (
            "a.tar",
            "--json-text-key long --max-bad-fraction 1",
            &["10 missing caption"],
        ),
        (
            "a.tar",
            "--batch-size 32",
            &["--batch-size 32", "10 pairs in a.tar"],
        ),
    ] {
        refuses(train(&place, data, "none", more), words);
        // Without counting, too.
        if more != "--batch-size 32" {
            let stated = format!("{more} --train-num-samples 100");
            refuses(train(&place, data, "none", &stated), &words[1..]);
        }
    }
}

#[test]
fn tables_of_several_kinds_train() {
    let place = place();
    for folder in ["p", "q"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    let (mut comma, mut pipe) = ("filepath,title\n".to_owned(), "title|filepath\n".to_owned());
    for i in 0..6u8 {
        std::fs::write(place.path(&format!("p/{i}.png")), picture(i)).unwrap();
        std::fs::write(place.path(&format!("q/{i}.png")), picture(i + 6)).unwrap();
        comma += &format!("{i}.png,\"picture {i}, in p\"\n");
        pipe += &format!("picture {i}, in q|{i}.png\n");
    }
    std::fs::write(place.path("p.csv"), &comma).unwrap();
    std::fs::write(place.path("q.txt"), pipe).unwrap();
    for (name, names) in [("comma", "p.csv,q.txt"), ("colons", "p.csv::q.txt")] {
        let roots = "--data-root p,q --epochs 1";
        expect(train(&place, names, name, roots), 0);
        assert_eq!(steps(&place, name), 3);
    }
    // An unquoted comma is an error with its line, not a caption that is cut.
    std::fs::write(place.path("cut.csv"), comma.replace('"', "")).unwrap();
    refuses(
        train(&place, "cut.csv", "cut", "--data-root p"),
        &["cut.csv, line 2", "3 fields", "quoted"],
    );
    refuses(
        train(&place, "p.csv,q.txt", "roots", "--data-root p,q,r"),
        &["3 folders", "2 tables"],
    );
    // No picture is there: after two rounds that is certain.
    refuses(
        train(
            &place,
            "p.csv",
            "nowhere",
            "--data-root r --max-bad-fraction 1",
        ),
        &[
            "no usable pair",
            "missing file (r/",
            ".png: ",
            "--data-root",
        ],
    );
}

/// A run that ends within an epoch has seen too little to be judged by it.
#[test]
fn few_pairs_of_a_short_run_are_no_verdict() {
    let place = place();
    shard(&place.path("holes.tar"), &pairs(0, 16, &[2]));
    let short = "--steps 1 --shuffle-buffer 0";
    let text = said(train(&place, "holes.tar", "short", short), 0);
    assert!(text.contains("undecodable image: 002"), "{text}");
    for flag in ["--dataset-resampled", "--train-data-upsampling-factors 2"] {
        refuses(
            train(&place, "demo", "demo", flag),
            &["demo", "--dataset-resampled"],
        );
    }
}

/// The texts of the list are evaluated, not the .txt beside it; training draws from the same.
#[test]
fn evaluation_takes_the_captions_that_training_takes() {
    let place = place();
    let mut files = pairs(0, 8, &[]);
    for i in 0..8 {
        let json = format!(r#"{{"captions": ["one {i}", "two {i}", "three {i}"]}}"#);
        files.push((format!("{i:03}.json"), json.into_bytes()));
    }
    files.sort();
    shard(&place.path("val.tar"), &files);
    let run = "--epochs 1 --max-bad-fraction 1";
    let text = said(train(&place, "val.tar", "run", run), 0);
    let words = "caption that differs from the one read: val.tar: 000: \"one 0\" is read";
    assert_eq!(text.matches(words).count(), 1, "{text}");
    let eval = |more: &str| {
        let args = format!("logs/run --val-data val.tar --out out.json {more}");
        expect(place.run(env!("CARGO_BIN_EXE_eval"), &args), 0);
        let text = std::fs::read_to_string(place.path("out.json")).unwrap();
        let results: Value = serde_json::from_str(&text).unwrap();
        results["datasets"][0].clone()
    };
    let set = eval("");
    assert_eq!((&set["images"], &set["captions"]), (&8.into(), &24.into()));
    assert_eq!(set["noted"]["caption that differs from the one read"], 8);
    assert_eq!(eval("--text-key txt")["captions"], 8);
    // A set of which too much is missing has no result.
    shard(&place.path("holes.tar"), &pairs(0, 8, &[1]));
    let args = "logs/run --val-data holes.tar --out out.json";
    let output = expect(place.run(env!("CARGO_BIN_EXE_eval"), args), 2);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("1 of 8 pairs") && text.contains("undecodable"),
        "{text}"
    );
}

/// Shards are counted once: the next start knows them, unless they changed.
#[test]
fn counts_are_kept_beside_the_runs() {
    let place = place();
    expect(train(&place, "a.tar", "one", "--epochs 1"), 0);
    let counts = std::fs::read_to_string(place.path("logs/counts.json")).unwrap();
    assert!(
        counts.contains("a.tar") && counts.contains("\"pairs\":10"),
        "{counts}"
    );
    let forged = counts.replace("\"pairs\":10", "\"pairs\":20");
    std::fs::write(place.path("logs/counts.json"), forged).unwrap();
    expect(train(&place, "a.tar", "two", "--epochs 1"), 0);
    assert_eq!((steps(&place, "one"), steps(&place, "two")), (2, 5));
    std::fs::write(place.path("sizes.json"), r#"{"a.tar": 12}"#).unwrap();
    let text = said(train(&place, "a.tar", "three", "--epochs 1"), 0);
    assert_eq!(steps(&place, "three"), 3);
    let words = "12 pairs in an epoch of 1 shards: 1 by sizes.json";
    assert!(text.contains(words), "{text}");
}

#[cfg(unix)]
#[test]
fn commands_stream_shards() {
    let place = place();
    let train = |pipe: &str, name: &str| {
        let mut command = train(&place, "x", name, "--epochs 1");
        command.args(["--train-data", pipe]);
        command
    };
    expect(train("pipe:cat {a,b}.tar", "cat"), 0);
    assert_eq!(steps(&place, "cat"), 4);
    refuses(
        train("pipe:cat a.tar; exit 3", "fails"),
        &["failed command", "exit status: 3"],
    );
    refuses(
        train("pipe:none-such a.tar", "none"),
        &["failed command", "127"],
    );
}
