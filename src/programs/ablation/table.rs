//! Means, standard deviations and differences; as text and as markdown.

use super::plan::{Plan, Reference, Run};
use super::record::Record;
use std::fmt::Write;

/// Mean and spread over seeds, in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stat {
    pub(super) mean: f64,
    /// Sample standard deviation; `None` of a single value.
    pub(super) sd: Option<f64>,
    /// Values.
    pub(super) n: usize,
}

impl Stat {
    /// `None` of no values.
    fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let square: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (square / (n - 1) as f64).sqrt());
        (n > 0).then_some(Self { mean, sd, n })
    }

    fn show(&self, signed: bool) -> String {
        let mean = match signed {
            true => format!("{:+.1}", self.mean),
            false => format!("{:.1}", self.mean),
        };
        match self.sd {
            Some(sd) => format!("{mean} ± {sd:.1}"),
            None => mean,
        }
    }
}

/// A table of the measured or the published numbers.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Line>,
    pub(super) baseline: String,
    /// Runs that are done, and all.
    pub(super) done: (usize, usize),
}

/// A row of it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// A teacher's, with which students are not on one scale.
    pub(super) aside: bool,
    /// By column.
    pub(super) values: Vec<Option<Stat>>,
    /// Against the baseline; over runs of equal seeds.
    pub(super) differences: Vec<Option<Stat>>,
}

impl Table {
    /// Of what is done so far.
    pub(super) fn measured(plan: &Plan, runs: &[Run], done: &[Option<Record>]) -> Self {
        // (seed, value) of a row's finished runs.
        let found = |row: usize, metric: &str| -> Vec<(Option<u64>, f64)> {
            let finished = runs.iter().zip(done).filter(|(run, _)| run.row == row);
            finished
                .filter_map(|(run, record)| {
                    let value = *record.as_ref()?.metrics.get(metric)?;
                    Some((run.seed, 100.0 * value))
                })
                .collect()
        };
        let base = plan.rows().position(|name| name == plan.baseline());
        let line = |(row, name): (usize, &str)| {
            let columns = plan.columns().iter().map(|column| {
                let values = found(row, &column.metric);
                let with = base.map(|base| found(base, &column.metric));
                let paired: Vec<f64> = with
                    .iter()
                    .flatten()
                    .filter_map(|(seed, other)| {
                        let (_, own) = values.iter().find(|(s, _)| s == seed)?;
                        Some(own - other)
                    })
                    .collect();
                let all: Vec<f64> = values.iter().map(|(_, x)| *x).collect();
                let difference = Stat::of(&paired).filter(|_| Some(row) != base);
                (Stat::of(&all), difference)
            });
            let (values, differences) = columns.unzip();
            Line {
                name: name.to_string(),
                aside: plan.is_teacher(name),
                values,
                differences,
            }
        };
        Self {
            title: plan.title().to_string(),
            columns: plan.columns().iter().map(|c| c.name.clone()).collect(),
            rows: plan.rows().enumerate().map(line).collect(),
            baseline: plan.baseline().to_string(),
            done: (done.iter().flatten().count(), runs.len()),
        }
    }

    /// Of the published numbers, each a single value.
    pub(super) fn reference(plan: &Plan, reference: &Reference) -> Self {
        let one = |x: f64| x.is_finite().then(|| Stat::of(&[x])).flatten();
        let base = reference.rows.iter().find(|r| r.row == plan.baseline());
        let line = |row: &super::plan::ReferenceRow| {
            let difference = |(i, x): (usize, &f64)| {
                let base = base.filter(|base| base.row != row.row)?;
                one(x - base.values.get(i)?)
            };
            Line {
                name: row.row.clone(),
                aside: plan.is_teacher(&row.row),
                values: row.values.iter().map(|x| one(*x)).collect(),
                differences: row.values.iter().enumerate().map(difference).collect(),
            }
        };
        Self {
            title: reference.title.clone(),
            columns: reference.columns.clone(),
            rows: reference.rows.iter().map(line).collect(),
            baseline: plan.baseline().to_string(),
            done: (0, 0),
        }
    }

    /// Whether any row has a difference to show.
    fn compares(&self) -> bool {
        let mut all = self.rows.iter().flat_map(|r| &r.differences);
        all.any(Option::is_some)
    }
}

/// A cell as text; a dash where there is no value.
pub(super) fn cell(stat: Option<&Stat>, signed: bool) -> String {
    stat.map_or_else(|| "–".into(), |s| s.show(signed))
}

/// For a screen: the values, then the differences.
pub(super) fn text(table: &Table) -> String {
    let mut out = format!("{}, per cent\n", table.title);
    grid(&mut out, table, false);
    if table.compares() {
        let _ = writeln!(out, "difference to `{}`", table.baseline);
        grid(&mut out, table, true);
    }
    out
}

fn grid(out: &mut String, table: &Table, signed: bool) {
    let cells: Vec<Vec<String>> = table
        .rows
        .iter()
        .map(|line| {
            let stats = if signed {
                &line.differences
            } else {
                &line.values
            };
            stats.iter().map(|s| cell(s.as_ref(), signed)).collect()
        })
        .collect();
    let names = table.rows.iter().map(|r| r.name.chars().count());
    let first = names.max().unwrap_or_default();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|i| {
            let cells = cells.iter().map(|row| row[i].chars().count());
            cells
                .max()
                .unwrap_or_default()
                .max(table.columns[i].chars().count())
        })
        .collect();
    let mut line = |name: &str, cells: &[String]| {
        let _ = write!(out, "  {name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "  {cell:>width$}");
        }
        out.push('\n');
    };
    line("", &table.columns);
    for (row, cells) in table.rows.iter().zip(&cells) {
        line(&row.name, cells);
    }
}

/// The whole report: both tables, and how to read them.
pub(super) fn markdown(plan: &Plan, measured: &Table, reference: Option<&Table>) -> String {
    let mut out = format!("# {}\n\n{}\n\n", measured.title, reading(plan, measured));
    rows(&mut out, measured);
    if let (Some(table), Some(reference)) = (reference, plan.reference()) {
        let _ = write!(out, "\n## {}\n\n{}\n\n", table.title, reference.note);
        rows(&mut out, table);
    }
    out
}

/// How the numbers are to be read.
pub(super) fn reading(plan: &Plan, measured: &Table) -> String {
    let seeds = plan.seeds().len();
    let mut text = format!(
        "Per cent: mean ± standard deviation over {seeds} seeds; in brackets the difference to \
         `{}`, taken between runs of the same seed.",
        plan.baseline()
    );
    if !plan.note().is_empty() {
        text.push(' ');
        text.push_str(plan.note());
    }
    let (done, all) = measured.done;
    if done < all {
        let _ = write!(text, " So far {done} of {all} runs are done.");
    }
    text
}

fn rows(out: &mut String, table: &Table) {
    let bar = |s: &str| s.replace('|', "\\|");
    let heads: Vec<String> = table.columns.iter().map(|c| bar(c)).collect();
    let _ = writeln!(out, "| | {} |", heads.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(heads.len()));
    for row in &table.rows {
        let cells: Vec<String> = row
            .values
            .iter()
            .zip(&row.differences)
            .map(|(value, difference)| {
                let value = cell(value.as_ref(), false);
                match difference {
                    Some(d) => format!("{value} ({})", d.show(true)),
                    None => value,
                }
            })
            .collect();
        let _ = writeln!(out, "| {} | {} |", bar(&row.name), cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_the_samples() {
        let stat = Stat::of(&[1.0, 3.0, 8.0]).unwrap();
        // Mean 4, squares 9 + 1 + 16 over 2.
        assert_eq!((stat.mean, stat.sd, stat.n), (4.0, Some(13f64.sqrt()), 3));
        assert_eq!(Stat::of(&[2.0]).unwrap().sd, None);
        assert_eq!(Stat::of(&[]), None);
    }

    fn table() -> Table {
        let line = |name: &str, values: &[f64], differences: &[f64]| Line {
            name: name.into(),
            aside: false,
            values: vec![Stat::of(values), None],
            differences: vec![Stat::of(differences), None],
        };
        Table {
            title: "T".into(),
            columns: vec!["top-1".into(), "R@1".into()],
            rows: vec![
                line("base", &[10.0, 12.0], &[]),
                line("a | b", &[13.0, 17.0], &[3.0, 5.0]),
            ],
            baseline: "base".into(),
            done: (4, 4),
        }
    }

    #[test]
    fn a_screen_shows_values_then_differences() {
        let want = "T, per cent\n              top-1  R@1\n  base   11.0 ± 1.4    –\n  a | b  15.0 ± 2.8    –\n\
                    difference to `base`\n              top-1  R@1\n  base            –    –\n  a | b  +4.0 ± 1.4    –\n";
        assert_eq!(text(&table()), want);
    }

    #[test]
    fn markdown_has_the_difference_in_brackets() {
        let mut out = String::new();
        rows(&mut out, &table());
        let last = out.lines().last().unwrap();
        assert_eq!(last, "| a \\| b | 15.0 ± 2.8 (+4.0 ± 1.4) | – |");
    }
}
