//! The demonstration: what `train` does without data of yours, on what is inside the program.
//!
//! A small teacher, trained by this program (`run/embedded/teacher.toml`) on emoji artwork with its names, a
//! smaller student that imitates it, and the same student alone.

use crate::eval::{self, Loading, Model, Outcome, Protocols};
use crate::loss::Method;
use crate::notices::notice;
use crate::report::{self, Extras, Other, Pictures};
use crate::run::checkpoint;
use crate::run::epochs::Summary;
use crate::run::evaluation::outcomes;
use crate::run::log::{span, timestamp};
use crate::run::training;
use crate::run::{device, embedded};
use crate::settings::config::{Call, Config};
use crate::settings::error::{Result, failed, usage};
use crate::settings::meaning::Settings;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The held-out splits' names on the screen, in the order of [`eval::demo_sets`].
const SPLITS: [&str; 3] = ["new style", "sketches", "new concepts"];

/// The configuration of the demonstration's distillation, under `keys` that the user gave.
///
/// # Errors
/// If a key's value cannot be used.
pub fn config(keys: toml::Table) -> Result<Config> {
    let own = embedded::STUDENT_RUN.parse().map_err(failed)?;
    let config = Config::over([own, keys])?;
    Settings::resolve(&config)?;
    Ok(config)
}

/// Distils the student as `config` says, trains it alone, and compares both with the teacher in one table. The runs'
/// folders are NAME-intra-kd and NAME-alone, and NAME is the date if there is none.
///
/// # Errors
/// As [`training::train`].
pub fn run(config: &Config) -> Result<String> {
    let started = Instant::now();
    let call = Call::default();
    let name = match &config.name {
        Some(name) => name.clone(),
        None => format!("demo-{}", timestamp()),
    };
    let distilled = Config {
        name: Some(format!("{name}-intra-kd")),
        ..config.clone()
    };
    let alone = Config {
        name: Some(format!("{name}-alone")),
        method: Method::Clip,
        teacher: None,
        ..distilled.clone()
    };
    for run in ["alone", "intra-kd"] {
        let folder = config.logs.join(format!("{name}-{run}"));
        if folder.exists() {
            return usage(format!(
                "{} exists already: take another --name",
                folder.display()
            ));
        }
    }
    let (backend, _) = device::open(&distilled.device)?;
    notice(
        "demonstration: emoji and their names; a student alone, the same student distilled with \
         intra-kd from the teacher inside this program, and a table, in about three minutes on two \
         CPU cores",
    );
    let teacher = embedded::teacher(backend.as_ref())?;
    let of_teacher = Model {
        backend: &backend,
        clip: teacher.clip(),
        parameters: teacher.parameters(),
    };
    let mut rows = vec![(
        "teacher",
        teacher.parameters().elements(),
        outcomes(&distilled, of_teacher)?,
    )];
    let mut runs = Vec::new();
    for (name, label, config) in [
        ("student alone", "alone   ", &alone),
        ("student, intra-kd", "intra-kd", &distilled),
    ] {
        let mut done = training::train(&Settings::resolve(config)?, &call, label, None)?;
        let scores = match done.outcomes.take() {
            Some(outcomes) => outcomes,
            None => outcomes(config, done.trainer.model())?,
        };
        let trainer = &done.trainer;
        let shapes = trainer.clip().parameter_shapes();
        let size = shapes
            .iter()
            .map(|(_, s)| s.iter().product::<usize>())
            .sum();
        rows.push((name, size, scores));
        runs.push((name, done));
    }
    let mut table = table(&rows);
    for (_, Summary { folder, .. }) in &runs {
        let checkpoints = checkpoint::latest(&folder.join("checkpoints"))?;
        let path = checkpoints.unwrap_or_else(|| folder.clone());
        table.push_str(&format!("\nweights and logs: {}", path.display()));
    }
    if let Some(path) = report(of_teacher, &rows, &runs, distilled.seed)? {
        table.push_str(&format!("\nreport: {}", path.display()));
    }
    table.push_str(&format!("\ntook {}", span(started.elapsed().as_secs_f64())));
    Ok(table)
}

/// Writes the report of the last run, with the others and the teacher beside it.
fn report(
    teacher: Model,
    rows: &[(&str, usize, Vec<Outcome>)],
    runs: &[(&str, Summary)],
    seed: u64,
) -> Result<Option<PathBuf>> {
    let (Some((label, run)), Some((_, _, of_teacher))) = (runs.last(), rows.first()) else {
        return Ok(None);
    };
    let mut models = vec![("teacher", teacher)];
    models.extend(runs.iter().map(|(name, run)| (*name, run.trainer.model())));
    let sets = eval::demo_sets(Protocols::First)?;
    let pictures = match sets.first() {
        Some(set) => Some(Pictures {
            step: run.steps,
            neighbours: eval::neighbours(set, &models, &Loading::default(), seed)?,
        }),
        None => None,
    };
    let others = runs.iter().rev().skip(1).map(|(name, run)| Other {
        label: name.to_string(),
        folder: Path::new("..").join(run.folder.file_name().unwrap_or_default()),
    });
    let metrics = of_teacher.iter().flat_map(eval::report::metrics);
    let extras = Extras {
        label: Some(label.to_string()),
        others: others.collect(),
        teacher: metrics.map(|(name, x)| (name, json!(x))).collect(),
        pictures,
    };
    extras.save(&run.folder)?;
    report::write(&run.folder, &[]).map(Some)
}

/// Every model on every split: naming its images among all its concepts, and finding each image's
/// caption and each caption's image.
fn table(rows: &[(&str, usize, Vec<Outcome>)]) -> String {
    let mut out = String::from("\nimages that no model has seen, in per cent\n");
    for (i, split) in SPLITS.iter().enumerate() {
        for (k, (name, size, outcomes)) in rows.iter().enumerate() {
            let Some(outcome) = outcomes.get(i) else {
                continue;
            };
            if k == 0 {
                let title = format!(
                    "{split}: {} images of {} concepts",
                    outcome.images, outcome.classes
                );
                out.push_str(&format!(
                    "\n{title:<41}{:>13}{:>13}{:>13}\n{:<25}{:>16}{:>13}{:>13}{:>13}\n",
                    "its name",
                    "its caption",
                    "its image",
                    "",
                    "parameters",
                    "top-1/5",
                    "R@1/5",
                    "R@1/5"
                ));
            }
            let cell = |a: f64, b: f64| format!("{:.1}/{:.1}", 100.0 * a, 100.0 * b);
            let named = outcome.accuracy.unwrap_or_default();
            let found = outcome.first_caption.unwrap_or_default();
            let (caption, image) = (found.image_to_text, found.text_to_image);
            out.push_str(&format!(
                "  {name:<23}{:>14.2} M{:>13}{:>13}{:>13}\n",
                *size as f64 / 1e6,
                cell(named.top1, named.top5),
                cell(caption.r1, caption.r5),
                cell(image.r1, image.r5)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_demonstration_prints_its_table() {
        let dir = tempfile::tempdir().unwrap();
        let short = Config {
            logs: dir.path().to_path_buf(),
            steps: Some(2),
            batch_size: 16,
            name: Some("short".into()),
            ..config(toml::Table::new()).unwrap()
        };
        let table = run(&short).unwrap();
        for word in [
            "teacher",
            "student alone",
            "student, intra-kd",
            "944 images of 944 concepts",
        ] {
            assert!(table.contains(word), "no {word} in:\n{table}");
        }
        for run in ["short-alone", "short-intra-kd"] {
            assert!(dir.path().join(run).join("checkpoints/step_2").is_dir());
        }
        let again = run(&short).unwrap_err().to_string();
        assert!(again.contains("short-alone exists already"), "{again}");
        let path = table.lines().find_map(|l| l.strip_prefix("report: "));
        let page = std::fs::read_to_string(path.unwrap()).unwrap();
        // Eight images, and their five nearest under three models.
        assert_eq!(page.matches("<img ").count(), 8 * (1 + 3 * 5));
        assert_eq!(page.matches("<th scope=\"row\">teacher</th>").count(), 6);
    }

    #[test]
    fn the_shipped_configurations_are_complete() {
        let flags = |file: &str| {
            let args = ["train", "--config", file].map(std::ffi::OsString::from);
            crate::programs::command_line::parse(args).unwrap()
        };
        let root = env!("CARGO_MANIFEST_DIR");
        flags(&format!("{root}/src/run/embedded/student.toml"));
        flags(&format!("{root}/src/run/embedded/teacher.toml"));
    }
}
