//! The keys of a configuration file: the flags' names.

use super::config::Config;
use super::error::{Error, Result, failed, usage};
use clap::{Args, FromArgMatches};

/// All flags of a run, and nothing else.
fn command() -> clap::Command {
    Config::augment_args(clap::Command::new("train"))
}

/// A file's keys by the flags' first names: `_` and aliases are taken, too.
///
/// # Errors
/// If a key is no flag of a run.
pub(crate) fn canonical(file: toml::Table) -> Result<toml::Table> {
    let command = command();
    let named = |(key, value): (String, toml::Value)| {
        let name = key.replace('_', "-");
        let arg = command.get_arguments().find(|a| {
            a.get_long() == Some(&name)
                || a.get_all_aliases()
                    .is_some_and(|all| all.contains(&name.as_str()))
        });
        match arg.and_then(clap::Arg::get_long) {
            Some(long) => Ok((long.to_string(), value)),
            None => usage(format!(
                "unknown key `{key}`: see train --help for the names"
            )),
        }
    };
    file.into_iter().map(named).collect()
}

/// What is wrong with a file, on one line.
pub(crate) fn toml_line(e: &toml::de::Error) -> String {
    e.to_string()
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Config {
    /// All defaults, as a command line without flags has them.
    pub fn new() -> Self {
        let matches = command().get_matches_from(["train"]);
        match Config::from_arg_matches(&matches) {
            Ok(config) => config,
            Err(_) => unreachable!("every flag has a default or is optional"),
        }
    }

    /// A configuration from the text of a file, over the defaults.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::over([text.parse().map_err(|e| Error::Usage(toml_line(&e)))?])
    }

    /// The defaults, under one layer of keys after the other.
    pub(crate) fn over(layers: impl IntoIterator<Item = toml::Table>) -> Result<Self> {
        let mut merged = toml::Table::try_from(Self::new()).map_err(failed)?;
        merged.extend(layers.into_iter().flatten());
        merged.try_into().map_err(|e| Error::Usage(toml_line(&e)))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Alpha;

    #[test]
    fn files_have_the_flags_names() {
        let text = "lr = 1\nval-data = \"demo\"\ncsv-img-key = \"path\"\nval-frequency = 2\nalpha = \"white\"\n";
        let config = Config::from_toml(text).unwrap();
        assert_eq!(config.lr, 1.0);
        assert_eq!(config.eval.val_data.as_deref(), Some("demo"));
        assert_eq!(config.pairs.csv_img_key, "path");
        assert_eq!(config.pairs.csv_caption_key, "title");
        assert_eq!(config.pictures.alpha, Alpha::White);
        assert!(config.to_toml().unwrap().contains("alpha = \"white\""));
        let again = Config::from_toml(&config.to_toml().unwrap()).unwrap();
        assert_eq!(again.to_toml().unwrap(), config.to_toml().unwrap());
        // Groups of flags make the file no less strict.
        let error = Config::from_toml("val-dada = \"demo\"").unwrap_err();
        assert!(error.to_string().contains("val-dada"), "{error}");
    }
}
