//! report.html: a run in one page that opens anywhere, without a network.
//!
//! Everything in it comes from the run's folder: config.toml, metrics.jsonl, results.jsonl, and report.json,
//! which holds what a report shows beyond those ([`Extras`]). So it can be made again at any time, also of a
//! run that broke off, and with other runs drawn into the same charts.

mod chart;
mod data;
mod evaluation;
mod format;
mod page;
mod pictures;
mod scale;
mod series;

use crate::eval::Neighbours;
use crate::settings::error::{Error, Result, failed};
use crate::settings::files;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use series::RunLog;
use std::path::{Path, PathBuf};

/// The page's file name in a run's folder.
pub const FILE: &str = "report.html";
const EXTRAS: &str = "report.json";

/// Another run in the same charts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Its name in the report.
    pub label: String,
    /// Its folder, as seen from the folder of the report.
    pub folder: PathBuf,
}

/// Nearest neighbours, and when they were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pictures {
    /// The student's steps.
    pub step: u64,
    /// Under the teacher, if there is one, and the student.
    pub neighbours: Neighbours,
}

/// What a report shows beyond the logs: report.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// The run's name in the report, if it is not the folder's.
    pub label: Option<String>,
    /// Runs that it is compared with.
    pub others: Vec<Other>,
    /// The teacher's metrics, under the names of results.jsonl.
    pub teacher: Map<String, Value>,
    /// Pictures.
    pub pictures: Option<Pictures>,
}

impl Extras {
    /// Those of the run in `folder`; none if there is no file.
    ///
    /// # Errors
    /// If it cannot be read or is malformed.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(EXTRAS);
        match files::read(&path)? {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::Usage(format!("{}: {e}; remove it", path.display()))),
        }
    }

    /// Writes them into `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(failed)?;
        files::replace(&folder.join(EXTRAS), &text)
    }
}

/// Writes the report of the run in `folder`, with the runs in `others` drawn beside it, and returns its
/// path.
///
/// # Errors
/// If a folder is no run's, or the page cannot be written.
pub fn write(folder: &Path, others: &[PathBuf]) -> Result<PathBuf> {
    let extras = Extras::load(folder)?;
    let mut runs = vec![RunLog::read(folder)?];
    if let Some(label) = &extras.label {
        runs[0].label.clone_from(label);
    }
    for other in &extras.others {
        // A run that has been removed since is no reason to do without the report.
        if let Ok(mut run) = RunLog::read(&folder.join(&other.folder)) {
            run.label.clone_from(&other.label);
            runs.push(run);
        }
    }
    for other in others {
        runs.push(RunLog::read(other)?);
    }
    let path = folder.join(FILE);
    files::replace(&path, &page::page(&runs, &extras))?;
    Ok(path)
}

#[cfg(test)]
mod tests;
