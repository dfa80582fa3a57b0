//! `--ablation`: the same run in several variants, with several seeds each, and one table.
//!
//! A [`Plan`] names the rows (flags that differ), the seeds and the metrics. Each row with each seed is
//! an ordinary run in a folder of its own, which also holds its result; so a second call does what is
//! left, continues where a run was stopped, and repeats nothing.

mod page;
mod plan;
mod record;
mod table;

pub use plan::Plan;

use crate::eval::{self, Model};
use crate::notices::{notice, warning};
use crate::run::checkpoint;
use crate::run::device;
use crate::run::evaluation;
use crate::run::interrupt;
use crate::run::log::span;
use crate::run::models;
use crate::run::stages;
use crate::run::training::FeatureCache;
use crate::settings::config::Call;
use crate::settings::error::{Error, Result, file, usage};
use crate::settings::files;
use crate::settings::meaning::Settings;
use plan::Run;
use record::Record;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use table::Table;

/// The table in a run's folder, for reading and for browsers.
const MARKDOWN: &str = "ablation.md";
const PAGE: &str = "ablation.html";

/// Does what of `plan` is not done yet, and returns the table as text. After every run the table so far
/// is written to the ablation's folder, as markdown and as a page.
///
/// # Errors
/// [`Error::Usage`] if a run's folder holds a run of other settings, [`Error::Interrupted`] after
/// Ctrl-C, [`Error::Failed`] if runs failed: all others are done nevertheless.
pub fn run(plan: &Plan) -> Result<String> {
    let started = Instant::now();
    let runs = plan.runs();
    let mut done: Vec<Option<Record>> = Vec::new();
    for run in &runs {
        done.push(Record::of(run)?);
    }
    let left = done.iter().filter(|d| d.is_none()).count();
    notice(format_args!(
        "{}: {} runs in {}; {} done already",
        plan.title(),
        runs.len(),
        plan.folder().display(),
        runs.len() - left
    ));
    let mut failures = Vec::new();
    // Runs of one seed follow one another, and their teacher sees the same batches.
    let mut shared = (None, Arc::<FeatureCache>::default());
    for (i, run) in runs.iter().enumerate() {
        if done[i].is_some() {
            continue;
        }
        if interrupt::asked() {
            return Err(stopped(plan));
        }
        let label = format!("[{}/{}] {}", i + 1, runs.len(), run.label());
        if shared.0 != run.seed {
            shared = (run.seed, Arc::default());
        }
        let before = shared.1.hits();
        match carry_out(run, &label, &shared.1) {
            Ok(record) => {
                done[i] = Some(record);
                let known = shared.1.hits() - before;
                if known > 0 {
                    notice(format_args!(
                        "{label}: {known} batches of the teacher's features were cached by earlier rows"
                    ));
                }
            }
            Err(Error::Interrupted(_)) => return Err(stopped(plan)),
            // Wrong input is wrong for all that follow, too.
            Err(error @ Error::Usage(_)) => return Err(error),
            Err(error) => {
                warning(format_args!("{label}: {error}"));
                failures.push(format!("{}: {error}", run.label()));
            }
        }
        write(plan, &runs, &done)?;
    }
    write(plan, &runs, &done)?;
    if !failures.is_empty() {
        return Err(Error::Failed(format!(
            "{} of {} runs failed, the others are in {}: {}",
            failures.len(),
            runs.len(),
            plan.folder().join(MARKDOWN).display(),
            failures.join("; ")
        )));
    }
    let mut text = table::text(&Table::measured(plan, &runs, &done));
    if let Some(reference) = plan.reference() {
        text.push('\n');
        text.push_str(&table::text(&Table::reference(plan, reference)));
    }
    text.push_str(&format!(
        "\n{}; {}; took {}",
        plan.folder().join(MARKDOWN).display(),
        plan.folder().join(PAGE).display(),
        span(started.elapsed().as_secs_f64())
    ));
    Ok(text)
}

fn stopped(plan: &Plan) -> Error {
    Error::Interrupted(format!(
        "stopped; the same command continues with what is left of {}",
        plan.folder().display()
    ))
}

/// Trains and evaluates one run, from its last checkpoint if it has one.
fn carry_out(run: &Run, label: &str, teacher_features: &Arc<FeatureCache>) -> Result<Record> {
    let config = &run.config;
    let settings = Settings::resolve(config)?;
    let outcomes = match run.seed {
        None => {
            let (backend, _) = device::open(&settings.device)?;
            let Some(teacher) = models::teacher(&settings, backend.as_ref())? else {
                return usage("a row for the teacher needs a --method that distils");
            };
            notice(format_args!("{label}: evaluating"));
            let model = Model {
                backend: &backend,
                clip: teacher.clip(),
                parameters: teacher.parameters(),
            };
            evaluation::outcomes(config, model)?
        }
        Some(_) => {
            let checkpoints = run.folder().join("checkpoints");
            let begun =
                config.inherit.several_parts() || checkpoint::latest(&checkpoints)?.is_some();
            let resume = begun.then(|| "latest".to_string());
            if resume.is_none() {
                clear(&run.folder())?;
            }
            let call = Call {
                resume,
                ..Call::default()
            };
            let done = stages::train_with(&settings, &call, label, Some(teacher_features))?;
            match done.outcomes {
                Some(outcomes) => outcomes,
                None => evaluation::outcomes(config, done.trainer.model())?,
            }
        }
    };
    let metrics = outcomes.iter().flat_map(eval::report::metrics).collect();
    let record = Record::new(config, metrics)?;
    record.write(&run.folder())?;
    Ok(record)
}

/// A run that broke off before its first checkpoint starts anew: its lines would be in the way.
fn clear(folder: &Path) -> Result<()> {
    for name in ["metrics.jsonl", "results.jsonl"] {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(file("remove", &path, &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(plan: &Plan, runs: &[Run], done: &[Option<Record>]) -> Result<()> {
    let measured = Table::measured(plan, runs, done);
    let reference = plan.reference().map(|r| Table::reference(plan, r));
    let folder = plan.folder();
    let markdown = table::markdown(plan, &measured, reference.as_ref());
    files::replace(&folder.join(MARKDOWN), &markdown)?;
    let page = page::html(plan, &measured, reference.as_ref());
    files::replace(&folder.join(PAGE), &page)
}
