//! What a program shows while it works, on stderr: a bar on a terminal, plain lines elsewhere.

use crate::notices::{self, Event, Listener};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Prints all notices of this process from here on.
pub fn show() {
    notices::listen_everywhere(Arc::new(Terminal {
        bars: std::io::stderr().is_terminal(),
        bar: Mutex::new(None),
    }));
}

/// Prints to stderr. If that is closed, the line is dropped.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Terminal {
    /// Whether stderr can show bars.
    bars: bool,
    /// The current run's.
    bar: Mutex<Option<ProgressBar>>,
}

impl Listener for Terminal {
    fn hear(&self, event: &Event) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match (*event, &*bar) {
            (Event::Begin { label, done, total }, _) if self.bars => {
                *bar = Some(new_bar(label, done, total));
            }
            (Event::Step { step, words, .. }, Some(bar)) => {
                bar.set_message(words.to_string());
                bar.set_position(step);
            }
            (Event::End, _) => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            (event, bar) => match (event.line(), bar) {
                (Some(line), Some(bar)) => bar.println(line),
                (Some(line), None) => say(line),
                (None, _) => {}
            },
        }
    }
}

fn new_bar(label: &str, done: u64, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} eta {eta} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(label.to_string());
    bar.set_position(done);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
