//! The result of one run, in its folder.

use super::plan::Run;
use crate::run::folder::{changes, decisive};
use crate::settings::config::Config;
use crate::settings::error::{Error, Result, failed, usage};
use crate::settings::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file in the run's folder.
const NAME: &str = "ablation.json";

/// What a finished run found, and the settings that it found it with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// All settings that matter for the result.
    config: toml::Table,
    /// Metrics by name, as shares of 1.
    pub(super) metrics: BTreeMap<String, f64>,
}

impl Record {
    pub(super) fn new(config: &Config, metrics: BTreeMap<String, f64>) -> Result<Self> {
        let config = decisive(config)?;
        Ok(Self { config, metrics })
    }

    /// The record of `run`, if it is finished.
    ///
    /// # Errors
    /// If its folder holds a run of other settings, finished or not.
    pub(super) fn of(run: &Run) -> Result<Option<Self>> {
        let folder = run.folder();
        let path = folder.join(NAME);
        let wanted = decisive(&run.config)?;
        if let Some(text) = files::read(&path)? {
            let record: Self = serde_json::from_str(&text)
                .map_err(|e| Error::Usage(format!("{}: {e}; remove it", path.display())))?;
            // A flag that is newer than the record had its default.
            let config = Config::over([record.config.clone()])?;
            compare(&decisive(&config)?, &wanted, &folder)?;
            return Ok(Some(record));
        }
        let path = folder.join("config.toml");
        if let Some(text) = files::read(&path)? {
            let config = Config::from_toml(&text)?;
            compare(&decisive(&config)?, &wanted, &folder)?;
        }
        Ok(None)
    }

    /// Writes the record into the run's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(failed)?;
        files::replace(&folder.join(NAME), &(text + "\n"))
    }
}

fn compare(found: &toml::Table, wanted: &toml::Table, folder: &Path) -> Result<()> {
    let differences = changes(found, wanted);
    if differences.is_empty() {
        return Ok(());
    }
    usage(format!(
        "{} holds a run of other settings ({}): take another --name",
        folder.display(),
        differences.join(", ")
    ))
}
