//! The help of the programs: `-h` is one screen with the flags of a first run, `--help` has all of them, in groups.

use clap::{Arg, Command};
use std::ffi::OsString;

/// Columns of the screen that `-h` fits.
const COLUMNS: usize = 80;
/// Columns before what a flag means.
const LEFT: usize = 31;

/// What one screen has room for.
pub(super) struct Screen {
    /// Its flags, in this order.
    pub flags: &'static [&'static str],
    /// Commands to begin with.
    pub end: &'static str,
}

impl Screen {
    /// `command` with the help that `args` ask for: `-h` makes it this screen.
    pub(super) fn apply(&self, command: Command, args: &[OsString]) -> Command {
        if args.iter().any(|arg| arg == "-h") {
            let screen = self.text(command.clone());
            return command.override_help(screen);
        }
        command.max_term_width(100).after_help(self.end)
    }

    fn text(&self, mut command: Command) -> String {
        command.build();
        let about = command.get_about().map(ToString::to_string);
        let mut lines = wrapped(&about.unwrap_or_default(), COLUMNS);
        lines.push(String::new());
        lines.push(command.render_usage().to_string());
        lines.push(String::new());
        for arg in command.get_positionals() {
            let name = values(arg).unwrap_or_default();
            lines.extend(entry(&format!("<{name}>"), &meaning(arg)));
        }
        for flag in self.flags {
            let mut all = command.get_arguments();
            if let Some(arg) = all.find(|arg| arg.get_long() == Some(flag)) {
                let values = values(arg).map(|values| format!(" <{values}>"));
                lines.extend(entry(
                    &format!("--{flag}{}", values.unwrap_or_default()),
                    &meaning(arg),
                ));
            }
        }
        lines.extend(entry(
            "-h, --help",
            "This screen, or all flags; [defaults] are in brackets",
        ));
        lines.push(format!("\n{}\n", self.end));
        lines.join("\n")
    }
}

/// The names of the values that `arg` takes, if it takes any.
pub(super) fn values(arg: &Arg) -> Option<String> {
    let names = arg
        .get_value_names()
        .filter(|_| arg.get_action().takes_values())?;
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    Some(names.join("> <"))
}

/// The default of `arg`, if it has one to show.
pub(super) fn default(arg: &Arg) -> Option<String> {
    let values = arg.get_default_values().iter();
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    let shown = arg.get_action().takes_values() && !arg.is_hide_default_value_set();
    (shown && !values.is_empty()).then(|| values.join(" "))
}

/// The first paragraph about `arg`, the words that it takes, and its default.
fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let words = arg.get_possible_values().into_iter();
    let words: Vec<String> = words
        .filter(|word| arg.get_action().takes_values() && !word.is_hide_set())
        .map(|word| word.get_name().to_owned())
        .collect();
    if !words.is_empty() {
        text += &format!(": {}", words.join(", "));
    }
    if let Some(default) = default(arg) {
        text += &format!(" [{default}]");
    }
    text
}

/// A line of the screen, or several.
fn entry(flag: &str, meaning: &str) -> Vec<String> {
    let mut lines = wrapped(meaning, COLUMNS - LEFT);
    for line in &mut lines {
        *line = format!("{:LEFT$}{line}", "");
    }
    match lines.first_mut() {
        Some(first) if flag.len() + 4 <= LEFT => {
            let text = first.trim_start();
            *first = format!("  {flag:<0$}{text}", LEFT - 2);
        }
        _ => lines.insert(0, format!("  {flag}")),
    }
    lines
}

/// `text` in lines of at most `width` columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_before_the_width() {
        assert_eq!(wrapped("aa bb  c ddddd", 5), ["aa bb", "c", "ddddd"]);
        let long = "x".repeat(LEFT);
        assert_eq!(
            entry(&long, "y"),
            [format!("  {long}"), format!("{:LEFT$}y", "")]
        );
        let short = entry("--a", "y");
        assert_eq!(short, [format!("  --a{:1$}y", "", LEFT - 5)]);
    }
}
