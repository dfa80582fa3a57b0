//! What the words after `--train-data` and `--val-data` name: tables or shards.

use std::path::{Path, PathBuf};

use super::Dataset;
use super::csv::{self, CsvOptions};
use super::error::{Error, Result};
use super::options::DatasetOptions;
use super::pattern::{self, ShardSource, is_tar};

/// `--dataset-type`: what the data are.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DatasetType {
    /// What their names or their first bytes say.
    #[default]
    Auto,
    /// Tars whose members form samples.
    Webdataset,
    /// Tables of image paths and captions.
    Csv,
}

/// Pairs of images and texts.
#[derive(Clone, Debug)]
pub enum Pairs {
    /// Tables, each with the folder that its relative paths start from.
    Tables(Vec<(PathBuf, Option<PathBuf>)>),
    /// Shards, one list for each part between `::`.
    Shards(Vec<Vec<ShardSource>>),
}

impl Pairs {
    /// What `names` names: parts separated by `::`, tables also by commas. `roots` are the folders of the tables,
    /// separated as these are; one root is that of all.
    ///
    /// # Errors
    /// [`Error::Config`] for tables beside shards, or another number of roots than tables; else as
    /// [`pattern::expand`].
    pub fn named(
        names: &str,
        kind: DatasetType,
        roots: Option<&str>,
        options: &CsvOptions,
    ) -> Result<Self> {
        let is_table = |name: &str| match kind {
            DatasetType::Auto => looks_like_table(name, options),
            DatasetType::Csv => true,
            DatasetType::Webdataset => false,
        };
        let parts = match Path::new(names).is_file() {
            true => vec![names],
            false => split(names),
        };
        // A comma within a name of shards is part of it.
        let (tables, others): (Vec<&str>, Vec<&str>) = parts.iter().partition(|p| is_table(p));
        if tables.is_empty() {
            return Ok(Self::Shards(pattern::expand_groups(names)?));
        }
        if let Some(other) = others.first() {
            return Err(Error::Config(format!(
                "'{other}' is no table, '{}' is one: name tables or shards, not both",
                tables[0]
            )));
        }
        let mut files = Vec::new();
        for part in tables {
            let mut group = Vec::new();
            for source in pattern::expand(part)? {
                match source {
                    ShardSource::Path(path) => group.push(path),
                    other => {
                        return Err(Error::Config(format!(
                            "{}: a table must be a file",
                            other.name()
                        )));
                    }
                }
            }
            files.push(group);
        }
        let roots: Vec<PathBuf> = roots.map_or(Vec::new(), |r| {
            split(r).into_iter().map(PathBuf::from).collect()
        });
        if roots.len() > 1 && roots.len() != files.len() {
            return Err(Error::Config(format!(
                "{} folders in --data-root for {} tables",
                roots.len(),
                files.len()
            )));
        }
        let root = |i: usize| match roots.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            all => Some(all[i].clone()),
        };
        let tables = files.into_iter().enumerate();
        let tables = tables.flat_map(|(i, group)| group.into_iter().map(move |file| (i, file)));
        Ok(Self::Tables(
            tables.map(|(i, file)| (file, root(i))).collect(),
        ))
    }

    /// Opens them; `factors` say how often each part between `::`, or each table, is read in a round.
    ///
    /// # Errors
    /// As [`csv::read`] and [`Dataset::upsampled`].
    pub fn open(
        self,
        csv: &CsvOptions,
        factors: Option<&[f32]>,
        options: DatasetOptions,
    ) -> Result<Dataset> {
        match self {
            Self::Shards(groups) => Dataset::upsampled(groups, factors, options),
            Self::Tables(files) => {
                let mut tables = Vec::new();
                for (path, data_root) in files {
                    let csv = CsvOptions {
                        data_root,
                        ..csv.clone()
                    };
                    tables.push(csv::read(&path, &csv)?);
                }
                Dataset::from_tables(tables, factors, options)
            }
        }
    }
}

/// By its name, or where that says nothing by its first line.
fn looks_like_table(name: &str, options: &CsvOptions) -> bool {
    if name.starts_with("pipe:") || name.contains("://") || is_tar(name) {
        return false;
    }
    let lower = name.to_ascii_lowercase();
    let bare = [".gz", ".bz2", ".xz", ".zst"]
        .iter()
        .find_map(|c| lower.strip_suffix(c))
        .unwrap_or(&lower);
    if [".csv", ".tsv", ".psv"].iter().any(|e| bare.ends_with(e)) {
        return true;
    }
    let path = Path::new(name);
    path.is_file() && csv::is_table(path, options)
}

/// The parts of `a::b` and of `a,b`, but for commas within braces.
fn split(names: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for group in names.split("::") {
        let (mut depth, mut start) = (0usize, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    parts.push(&group[start..i]);
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&group[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_first_lines_tell_tables_from_shards() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display().to_string();
        let table = "filepath,title\na.jpg,a\n";
        for name in ["a.csv", "b.TSV", "c.txt", "d", "e,f.csv"] {
            std::fs::write(folder.path().join(name), table).unwrap();
        }
        std::fs::write(folder.path().join("0.tar"), [0u8; 1024]).unwrap();
        std::fs::write(folder.path().join("bare"), [0u8; 1024]).unwrap();
        let csv = CsvOptions::default();
        let of = |names: &str, kind, roots| Pairs::named(names, kind, roots, &csv);
        let tables = |names: &str, roots| match of(names, DatasetType::Auto, roots) {
            Ok(Pairs::Tables(tables)) => tables,
            other => panic!("{names}: {other:?}"),
        };
        let several = format!("{root}/a.csv,{root}/b.TSV::{root}/c.txt,{root}/d");
        let found = tables(&several, Some("r0,r1::r2,r3"));
        let roots: Vec<_> = found.iter().map(|(_, r)| r.clone().unwrap()).collect();
        assert_eq!(roots, ["r0", "r1", "r2", "r3"].map(PathBuf::from));
        assert_eq!(tables(&several, Some("r"))[3].1, Some("r".into()));
        assert_eq!(tables(&format!("{root}/e,f.csv"), None).len(), 1);
        assert_eq!(tables(&format!("{root}/*.csv"), None).len(), 2);
        let shards = |names: &str, kind| matches!(of(names, kind, None), Ok(Pairs::Shards(_)));
        assert!(shards(
            &format!("{root}/0.tar::{root}/bare"),
            DatasetType::Auto
        ));
        assert!(shards(&format!("{root}/d"), DatasetType::Webdataset));
        for (names, kind, roots, words) in [
            (
                format!("{root}/a.csv::{root}/0.tar"),
                DatasetType::Auto,
                None,
                "not both",
            ),
            (several.clone(), DatasetType::Auto, Some("r,s"), "2 folders"),
            (
                format!("{root}/none.csv"),
                DatasetType::Auto,
                None,
                "none.csv",
            ),
            (
                "pipe:cat x".into(),
                DatasetType::Csv,
                None,
                "must be a file",
            ),
        ] {
            let error = of(&names, kind, roots).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
