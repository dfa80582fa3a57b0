//! What an ablation compares.

use crate::data::demo::DEMO;
use crate::settings::config::Config;
use crate::settings::error::{Error, Result, unreadable, usage};
use crate::settings::keys::{canonical, toml_line};
use crate::settings::meaning::{Settings, objective};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The files inside this program, by the name that `--ablation` takes.
const SHIPPED: [(&str, &str); 2] = [
    ("poster", include_str!("poster.toml")),
    ("baselines", include_str!("baselines.toml")),
];

/// Keys that belong to the plan, never to a row.
const OWN: [&str; 3] = ["seed", "name", "logs"];

/// An ablation: rows of flags, each run with every seed.
#[derive(Clone, Debug)]
pub struct Plan {
    file: File,
    rows: Vec<Row>,
    folder: PathBuf,
}

/// The file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    /// Above the table.
    title: String,
    /// Each row is run with each of them; equal seeds mean equal data in equal order.
    seeds: Vec<u64>,
    /// The row that the others are compared with.
    baseline: String,
    /// Said below the table.
    #[serde(default)]
    note: String,
    columns: Vec<Column>,
    /// Flags of every row.
    #[serde(default)]
    base: Table,
    /// `row = "name"`, and the flags that differ; or `evaluate-teacher = true` for the teacher as it is.
    rows: Vec<RowTable>,
    reference: Option<Reference>,
}

#[derive(Clone, Debug, Deserialize)]
struct RowTable {
    row: String,
    #[serde(default, rename = "evaluate-teacher")]
    evaluate_teacher: bool,
    #[serde(flatten)]
    flags: Table,
}

/// A metric that is a column.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Column {
    /// Its heading.
    pub(super) name: String,
    /// As in results.jsonl; a share of 1, shown in per cent.
    pub(super) metric: String,
}

/// Published numbers to set beside the measured ones.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Reference {
    /// Where they are from.
    pub(super) title: String,
    /// What must be known to compare them.
    pub(super) note: String,
    /// Headings.
    pub(super) columns: Vec<String>,
    /// In the order of the source.
    pub(super) rows: Vec<ReferenceRow>,
}

/// A row of published numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ReferenceRow {
    /// Its name.
    pub(super) row: String,
    /// In per cent, one a column; NaN where the source has none.
    pub(super) values: Vec<f64>,
}

/// A row of the table: its name and its configuration with any seed.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    teacher: bool,
    config: Config,
}

/// One row with one seed.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Its row's place in the table.
    pub(super) row: usize,
    /// `None` for the teacher, which is not trained.
    pub(super) seed: Option<u64>,
    /// Complete, with its own seed, name and folder.
    pub(super) config: Config,
    name: String,
}

impl Run {
    /// The run's folder.
    pub(super) fn folder(&self) -> PathBuf {
        self.config.logs.join(&self.name)
    }

    /// The row's folder name and the seed.
    pub(super) fn label(&self) -> &str {
        &self.name
    }
}

impl Plan {
    /// Reads the plan in the file that `source` names, or one of those inside this program, by
    /// name. `given` are the flags of the command line; they hold for all rows.
    ///
    /// # Errors
    /// If the file cannot be read or a row's flags do not make a run.
    pub fn load(source: &str, given: Table) -> Result<Self> {
        let shipped = SHIPPED.iter().find(|(name, _)| *name == source);
        let text = match shipped {
            Some((_, text)) => (*text).to_string(),
            None => std::fs::read_to_string(source).map_err(|e| {
                let names = SHIPPED.map(|(name, _)| name).join(" and ");
                let why = unreadable(Path::new(source), &e);
                Error::Usage(format!("{why}; the plans inside this program are {names}"))
            })?,
        };
        let stem = Path::new(source).file_stem().unwrap_or_default();
        Self::parse(&text, &stem.to_string_lossy(), given)
            .map_err(|e| Error::Usage(format!("--ablation {source}: {e}")))
    }

    /// As [`Self::load`] from a file's text; `stem` names the folder unless `--name` does.
    fn parse(text: &str, stem: &str, given: Table) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|e| Error::Usage(toml_line(&e)))?;
        let base = canonical(file.base.clone())?;
        check_own(&base, "[base]")?;
        if given.contains_key("seed") {
            return usage("--seed cannot be given: the file's seeds are run");
        }
        let mut names = BTreeSet::new();
        let mut rows = Vec::new();
        for RowTable {
            row,
            evaluate_teacher,
            flags,
        } in &file.rows
        {
            let flags = canonical(flags.clone())?;
            check_own(&flags, &format!("row `{row}`"))?;
            if let Some(key) = flags.keys().find(|key| given.contains_key(*key)) {
                return usage(format!("--{key} cannot be given: row `{row}` sets it"));
            }
            if !names.insert(slug(row)) {
                return usage(format!("two rows would have the folder `{}`", slug(row)));
            }
            let mut config = Config::over([base.clone(), flags, given.clone()])?;
            // One [base] serves rows with and without distillation.
            if !objective(&config).weights.need_teacher() {
                config.teacher = None;
                config.teacher_checkpoint = None;
            }
            Settings::resolve(&config).map_err(|e| Error::Usage(format!("row `{row}`: {e}")))?;
            if config.eval.is_empty() && config.train_data.as_deref() != Some(DEMO) {
                return usage("nothing to evaluate on: give val-data, imagenet-val, ... in [base]");
            }
            rows.push(Row {
                name: row.clone(),
                teacher: *evaluate_teacher,
                config,
            });
        }
        let distinct: BTreeSet<_> = file.seeds.iter().collect();
        let known = |name: &str| rows.iter().any(|r| r.name == name && !r.teacher);
        let trained = rows.iter().filter(|r| !r.teacher).count();
        let rules = [
            (!file.seeds.is_empty(), "seeds: at least one is needed"),
            (
                distinct.len() == file.seeds.len(),
                "seeds: one is there twice",
            ),
            (!file.columns.is_empty(), "columns: at least one is needed"),
            (trained > 0, "rows: at least one must be trained"),
            (
                known(&file.baseline),
                "baseline: must be the name of a row that is trained",
            ),
        ];
        if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
            return usage(*message);
        }
        if let Some(reference) = &file.reference {
            let width = reference.columns.len();
            if let Some(row) = reference.rows.iter().find(|r| r.values.len() != width) {
                return usage(format!(
                    "reference row `{}`: {} values for {width} columns",
                    row.row,
                    row.values.len()
                ));
            }
        }
        let text = |key: &str| given.get(key).and_then(Value::as_str);
        let logs = PathBuf::from(text("logs").unwrap_or("logs"));
        let folder = logs.join(text("name").unwrap_or(stem));
        Ok(Self { file, rows, folder })
    }

    /// Every row with every seed: a whole table with the first seed, then with the second, and so on.
    pub(super) fn runs(&self) -> Vec<Run> {
        let teachers = self.rows.iter().enumerate().filter(|(_, r)| r.teacher);
        let mut runs: Vec<Run> = teachers.map(|(i, r)| self.run(i, r, None)).collect();
        for seed in &self.file.seeds {
            let trained = self.rows.iter().enumerate().filter(|(_, r)| !r.teacher);
            runs.extend(trained.map(|(i, r)| self.run(i, r, Some(*seed))));
        }
        runs
    }

    fn run(&self, index: usize, row: &Row, seed: Option<u64>) -> Run {
        let name = match seed {
            Some(seed) => format!("{}-seed{seed}", slug(&row.name)),
            None => slug(&row.name),
        };
        let config = Config {
            seed: seed.unwrap_or_default(),
            name: Some(name.clone()),
            logs: self.folder.clone(),
            ..row.config.clone()
        };
        Run {
            row: index,
            seed,
            config,
            name,
        }
    }

    /// Above the table.
    pub(super) fn title(&self) -> &str {
        &self.file.title
    }

    /// Below it.
    pub(super) fn note(&self) -> &str {
        &self.file.note
    }

    /// The folder of all runs and of the table.
    pub(super) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// The rows' names.
    pub(super) fn rows(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|r| r.name.as_str())
    }

    /// Whether the row `name` is a teacher's.
    pub(super) fn is_teacher(&self, name: &str) -> bool {
        self.rows.iter().any(|r| r.teacher && r.name == name)
    }

    /// The row that the others are compared with.
    pub(super) fn baseline(&self) -> &str {
        &self.file.baseline
    }

    /// The columns.
    pub(super) fn columns(&self) -> &[Column] {
        &self.file.columns
    }

    /// The seeds.
    pub(super) fn seeds(&self) -> &[u64] {
        &self.file.seeds
    }

    /// Published numbers.
    pub(super) fn reference(&self) -> Option<&Reference> {
        self.file.reference.as_ref()
    }
}

fn check_own(flags: &Table, place: &str) -> Result<()> {
    match flags.keys().find(|key| OWN.contains(&key.as_str())) {
        Some(key) => usage(format!("{place}: `{key}` cannot be set in a row")),
        None => Ok(()),
    }
}

/// A row's name as a folder's: lower-case letters and digits, other characters as one dash.
fn slug(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        title = "two"
        seeds = [4, 7]
        baseline = "a row"
        columns = [{ name = "top-1", metric = "zeroshot-val-top1" }]
        [base]
        model = "demo"
        t_model = "demo"
        train-data = "demo"
        batch-size = 8
        [[rows]]
        row = "the teacher"
        evaluate-teacher = true
        [[rows]]
        row = "a row"
        method = "clip"
        [[rows]]
        row = "+ L_intra"
        intra_weights = "uniform"
    "#;

    fn parse(text: &str) -> Result<Plan> {
        Plan::parse(text, "stem", Table::new())
    }

    #[test]
    fn rows_lie_over_the_base_and_under_the_command_line() {
        let given: Table = "steps = 3\nlogs = \"else\"".parse().unwrap();
        let plan = Plan::parse(FILE, "stem", given).unwrap();
        let runs = plan.runs();
        let names: Vec<&str> = runs.iter().map(Run::label).collect();
        assert_eq!(
            names,
            [
                "the-teacher",
                "a-row-seed4",
                "l-intra-seed4",
                "a-row-seed7",
                "l-intra-seed7"
            ]
        );
        assert_eq!(runs[4].folder(), Path::new("else/stem/l-intra-seed7"));
        let config = &runs[4].config;
        assert_eq!(
            (config.seed, config.batch_size, config.steps),
            (7, 8, Some(3))
        );
        assert_eq!(config.teacher.as_deref(), Some("demo"));
        // No distillation, no teacher.
        assert_eq!(runs[1].config.teacher, None);
    }

    #[test]
    fn what_makes_no_table_is_refused() {
        for (from, to, word) in [
            ("seeds = [4, 7]", "seeds = []", "at least one"),
            ("seeds = [4, 7]", "seeds = [4, 4]", "twice"),
            ("baseline = \"a row\"", "baseline = \"b\"", "baseline"),
            (
                "baseline = \"a row\"",
                "baseline = \"the teacher\"",
                "baseline",
            ),
            ("row = \"+ L_intra\"", "row = \"A-Row\"", "a-row"),
            ("intra_weights = \"uniform\"", "seed = 3", "seed"),
            (
                "intra_weights = \"uniform\"",
                "intra-waits = 1",
                "intra-waits",
            ),
            ("batch-size = 8", "batch-size = 1", "batch-size"),
            (
                "train-data = \"demo\"",
                "train-data = \"a.tar\"",
                "evaluate",
            ),
        ] {
            assert!(FILE.contains(from), "{from}");
            let error = parse(&FILE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(word), "{to}: {error}");
        }
        for (given, word) in [("seed = 1", "--seed"), ("method = \"clip\"", "a row")] {
            let error = Plan::parse(FILE, "stem", given.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(word), "{given}: {error}");
        }
    }

    #[test]
    fn the_shipped_plans_are_complete() {
        for (name, _) in SHIPPED {
            let plan = Plan::load(name, Table::new()).unwrap();
            assert_eq!(plan.seeds().len(), 5, "{name}");
            let reference = plan.reference().unwrap();
            // Both tables have the row of comparison.
            let rows = &reference.rows;
            assert!(rows.iter().any(|r| r.row == plan.baseline()), "{name}");
        }
    }
}
