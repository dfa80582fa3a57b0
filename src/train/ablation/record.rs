//! The result of one run, in its folder.

use super::plan::Run;
use crate::train::config::Config;
use crate::train::error::{Error, Result, failed, file, unreadable, usage};
use crate::train::setup;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
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
        let config = setup::decisive(config)?;
        Ok(Self { config, metrics })
    }

    /// The record of `run`, if it is finished.
    ///
    /// # Errors
    /// If its folder holds a run of other settings, finished or not.
    pub(super) fn of(run: &Run) -> Result<Option<Self>> {
        let folder = run.folder();
        let path = folder.join(NAME);
        let wanted = setup::decisive(&run.config)?;
        if let Some(text) = read(&path)? {
            let record: Self = serde_json::from_str(&text)
                .map_err(|e| Error::Usage(format!("{}: {e}; remove it", path.display())))?;
            // A flag that is newer than the record had its default.
            let config = Config::over([record.config.clone()])?;
            compare(&setup::decisive(&config)?, &wanted, &folder)?;
            return Ok(Some(record));
        }
        let path = folder.join("config.toml");
        if let Some(text) = read(&path)? {
            let config = Config::from_toml(&text)?;
            compare(&setup::decisive(&config)?, &wanted, &folder)?;
        }
        Ok(None)
    }

    /// Writes the record, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| file("create", folder, &e))?;
        let (path, draft) = (folder.join(NAME), folder.join("ablation.json.part"));
        let text = serde_json::to_string_pretty(self).map_err(failed)?;
        std::fs::write(&draft, text + "\n").map_err(|e| file("write", &draft, &e))?;
        std::fs::rename(&draft, &path).map_err(|e| file("write", &path, &e))
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(path, &e)),
    }
}

fn compare(found: &toml::Table, wanted: &toml::Table, folder: &Path) -> Result<()> {
    let changes = setup::changes(found, wanted);
    if changes.is_empty() {
        return Ok(());
    }
    usage(format!(
        "{} holds a run of other settings ({}): take another --name",
        folder.display(),
        changes.join(", ")
    ))
}
