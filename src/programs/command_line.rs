//! Reading a command line, and the file of its `--config`.

use super::ablation::Plan;
use super::demo;
use super::help::Screen;
use crate::settings::config::{Call, Config};
use crate::settings::error::{Error, Result, failed, unreadable, usage};
use crate::settings::keys::{canonical, toml_line};
use crate::settings::meaning::Settings;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Distils CLIP models. Without data: a demonstration, in about three minutes on two CPU cores.
#[derive(Debug, Parser)]
#[command(name = "train", version, args_override_self = true)]
struct CommandLine {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    call: Call,
}

/// All flags of `train`.
pub(super) fn command() -> clap::Command {
    CommandLine::command()
}

const SCREEN: Screen = Screen {
    flags: &[
        "train-data",
        "model",
        "teacher",
        "teacher-checkpoint",
        "method",
        "batch-size",
        "epochs",
        "lr",
        "warmup",
        "imagenet-val",
        "backend",
        "precision",
        "name",
        "config",
        "resume",
        "dry-run",
        "list-devices",
    ],
    end: "\
A demonstration, on an NVIDIA GPU:
  train --backend cuda
A run on your own data:
  train --train-data 'shards/{00000..00331}.tar' --model ViT-T-16 \\
        --teacher ViT-B-16 --teacher-checkpoint teacher.safetensors",
};

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// No data: the demonstration, with flags that say where and how it runs.
    Demo(Box<Config>),
    /// Text to print on stdout: help or version.
    Print(String),
    /// The devices of every backend.
    Devices,
    /// The report of a run again, with others in its charts.
    Report(PathBuf, Vec<PathBuf>),
    /// A run.
    Run(Box<Settings>, Call),
    /// Many runs and one table.
    Ablation(Box<Plan>),
}

/// Reads a command line (with the program's name first) and the file of its `--config`.
///
/// # Errors
/// [`Error::Usage`] with one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let args: Vec<OsString> = args.into_iter().map(dashes).collect();
    let command = SCREEN.apply(command(), &args);
    let matches = match command.try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) if !e.use_stderr() => return Ok(Request::Print(e.render().to_string())),
        Err(e) => return usage(clap_line(&e.render().to_string())),
    };
    let line = CommandLine::from_arg_matches(&matches)
        .map_err(|e| Error::Usage(clap_line(&e.to_string())))?;
    if line.call.list_devices {
        return Ok(Request::Devices);
    }
    if let Some(source) = &line.call.ablation {
        let plan = Plan::load(source, given(&line.config, &matches)?)?;
        return Ok(Request::Ablation(Box::new(plan)));
    }
    if let [run, others @ ..] = line.call.report.as_slice() {
        return Ok(Request::Report(run.clone(), others.to_vec()));
    }
    let flags = given(&line.config, &matches)?;
    let (keys, config) = match &line.call.config {
        Some(path) => overlay(flags, path)?,
        None => (flags, line.config),
    };
    if config.train_data.is_none() {
        return demonstration(keys, &line.call).map(|config| Request::Demo(Box::new(config)));
    }
    let settings = Settings::resolve(&config)?;
    Ok(Request::Run(Box::new(settings), line.call))
}

/// Flags that say where and how something runs. A command line of these alone is the demonstration.
const WHERE_AND_HOW: [&str; 7] = [
    "backend",
    "device",
    "precision",
    "threads",
    "seed",
    "logs",
    "name",
];

/// The demonstration's configuration under `keys`, which the command line and its file have.
///
/// # Errors
/// If these or the call ask for something that needs data.
fn demonstration(keys: toml::Table, call: &Call) -> Result<Config> {
    let others = keys.keys().map(String::as_str);
    let others = others.filter(|key| !WHERE_AND_HOW.contains(key)).chain(
        [("resume", call.resume.is_some()), ("dry-run", call.dry_run)]
            .into_iter()
            .filter_map(|(flag, there)| there.then_some(flag)),
    );
    let others: Vec<String> = others.map(|flag| format!("--{flag}")).collect();
    if !others.is_empty() {
        return usage(format!(
            "--train-data is missing: shards, a CSV file, or `demo` (only without {} would this be the demonstration)",
            others.join(", ")
        ));
    }
    demo::config(keys)
}

/// open_clip and CLIP-KD mix `--train_data` and `--train-data`: both are taken, here and by the other
/// programs.
pub fn dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(s) if s.starts_with("--") => {
            let (flag, value) = s.split_at(s.find('=').unwrap_or(s.len()));
            OsString::from(flag.replace('_', "-") + value)
        }
        _ => arg,
    }
}

/// clap's message on one line, without its usage block.
pub fn clap_line(message: &str) -> String {
    let text = message.strip_prefix("error: ").unwrap_or(message);
    let keep = text.split("\n\nUsage:").next().unwrap_or(text);
    let keep = keep
        .split("\n\nFor more information")
        .next()
        .unwrap_or(keep);
    let lines: Vec<&str> = keep
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    // What follows a colon belongs to it.
    lines.join("; ").replace(":; ", ": ")
}

/// The file's keys under the flags that were given, and what both make of the defaults.
fn overlay(flags: toml::Table, path: &Path) -> Result<(toml::Table, Config)> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    let file = text.parse().map_err(|e| Error::Usage(toml_line(&e)));
    file.and_then(canonical)
        .and_then(|mut keys| {
            keys.extend(flags);
            Ok((keys.clone(), Config::over([keys])?))
        })
        .map_err(|e| Error::Usage(format!("{}: {}", path.display(), clap_line(&e.to_string()))))
}

/// The flags that the command line itself has, of all in `flags`.
fn given(flags: &Config, matches: &ArgMatches) -> Result<toml::Table> {
    let all = toml::Table::try_from(flags).map_err(failed)?;
    let command = CommandLine::command();
    let said = |key: &str| {
        let arg = command.get_arguments().find(|a| a.get_long() == Some(key));
        let source = arg.and_then(|a| matches.value_source(a.get_id().as_str()));
        source == Some(ValueSource::CommandLine)
    };
    Ok(all.into_iter().filter(|(key, _)| said(key)).collect())
}
