//! The guide's page of all flags, made from the command lines.

use super::{command_line, embed, eval, help};
use clap::{Arg, Command};
use std::fmt::Write;

/// The file of the page, from the repository's root.
pub const FILE: &str = "src/guide/flags.md";

/// The page as Markdown.
pub fn page() -> String {
    let mut out = String::from(
        "# Flags\n\n\
         <!-- Written by `UPDATE_GUIDE=1 cargo test --test guide_flags`. -->\n\n\
         `-h` shows the flags of a first run, `--help` all of them. Every flag may be written with underscores \
         (`--batch_size`). A flag given twice has its last value. The flags of `train`, except those under *Command*, \
         are also the keys of a `--config` file.\n",
    );
    for command in [command_line::command(), eval::command(), embed::command()] {
        program(&mut out, command);
    }
    out
}

fn program(out: &mut String, mut command: Command) {
    command.build();
    let about = command.get_about().map(ToString::to_string);
    let usage = command.render_usage().to_string();
    let _ = write!(
        out,
        "\n## `{}`\n\n{}\n\n```text\n{usage}\n```\n",
        command.get_name(),
        sentence(&about.unwrap_or_default()),
    );
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in shown(&command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(out, "\n### {heading}\n");
        }
        out.push_str("\n| flag | default | meaning |\n|---|---|---|\n");
        for arg in shown(&command).filter(|arg| arg.get_help_heading() == heading) {
            let default = help::default(arg).map(|x| format!("`{x}`"));
            let row = [name(arg), default.unwrap_or_default(), meaning(arg)];
            let row = row.map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
    }
}

/// The flags of `command` that say something about its work.
fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    let own = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
    command.get_arguments().filter(own)
}

fn name(arg: &Arg) -> String {
    match (arg.get_long(), help::values(arg)) {
        (Some(long), Some(values)) => format!("`--{long} {}`", values.replace("> <", " ")),
        (Some(long), None) => format!("`--{long}`"),
        (None, values) => format!("`{}`", values.unwrap_or_default()),
    }
}

/// What a flag does, the words that it takes, and its other names.
fn meaning(arg: &Arg) -> String {
    let text = arg.get_long_help().or(arg.get_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<String> = text.split("\n\n").map(sentence).collect();
    let mut out = plain(&paragraphs.join(" "));
    let words = arg.get_possible_values().into_iter();
    let words: Vec<String> = words
        .filter(|word| arg.get_action().takes_values() && !word.is_hide_set())
        .map(|word| match word.get_help() {
            Some(help) => format!("`{}`: {}", word.get_name(), plain(&help.to_string())),
            None => format!("`{}`", word.get_name()),
        })
        .collect();
    if !words.is_empty() {
        out += &format!(" {}.", words.join("; "));
    }
    if let Some(names) = arg.get_all_aliases().filter(|names| !names.is_empty()) {
        let names: Vec<String> = names.iter().map(|name| format!("`--{name}`")).collect();
        out += &format!(" Also {}.", names.join(", "));
    }
    out
}

/// clap takes the full stop from a first paragraph.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.ends_with(['.', ':']) || text.is_empty() {
        true => text,
        false => text + ".",
    }
}

/// `text` with what Markdown would take for its own marked as text, outside code.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        if i > 0 {
            out.push('`');
        }
        match i % 2 {
            0 => {
                out += &part
                    .replace('<', "&lt;")
                    .replace('[', "\\[")
                    .replace('*', "\\*")
            }
            _ => out += part,
        }
    }
    out
}
