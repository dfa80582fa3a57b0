//! What the programs do: flags, a checkpoint, the work, the answer.

pub mod ablation;
pub mod checkpoint;
pub mod command_line;
pub mod demo;
pub mod embed;
pub mod eval;
pub mod flags_page;
mod help;
pub mod terminal;

use crate::backend::Backend;
use crate::eval::Loading;
use crate::notices::notice;
use crate::programs::command_line::{clap_line, dashes};
use crate::programs::help::Screen;
use crate::run::device;
use crate::settings::device::DeviceFlags;
use crate::settings::error::{Error, Result, file, usage};
use clap::{Args, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Flags about the model and how it runs, which both programs have.
#[derive(Clone, Debug, Args)]
pub struct ModelFlags {
    /// A run's or checkpoint's folder, a .safetensors file, or `demo`.
    ///
    /// A run's folder stands for its newest checkpoint; a file has open_clip's names; `demo` is the teacher inside
    /// this program.
    pub checkpoint: String,
    /// A name or JSON file, if none is beside the weights.
    ///
    /// A model name (ViT-T-16, ...) or an open_clip model_config JSON file (default: the open_clip_config.json
    /// beside the weights).
    #[arg(long, help_heading = "Model")]
    pub model: Option<String>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceFlags,
    /// Images in a batch.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Device")]
    pub batch_size: usize,
    /// Threads that read and decode images.
    #[arg(long, default_value_t = 2, value_name = "N", help_heading = "Device")]
    pub workers: usize,
}

impl ModelFlags {
    /// Rules that no type can check.
    fn check(&self) -> Result<()> {
        for (flag, zero) in [
            ("--batch-size", self.batch_size == 0),
            ("--workers", self.workers == 0),
            ("--threads", self.device.threads == Some(0)),
        ] {
            if zero {
                return usage(format!("{flag} must be at least 1"));
            }
        }
        Ok(())
    }

    /// The device, the checkpoint on it, and how its images are loaded.
    fn open(&self) -> Result<(Arc<dyn Backend>, checkpoint::Trained, Loading)> {
        let (backend, line) = device::open(&self.device)?;
        let trained = checkpoint::open(&self.checkpoint, self.model.as_deref(), &backend)?;
        notice(format_args!("{} on {line}", trained.name));
        let loading = Loading {
            batch_size: self.batch_size,
            workers: self.workers,
            normalisation: trained.normalisation,
        };
        Ok((backend, trained, loading))
    }
}

/// Turns off Mesa's choice of a default device, which looks for a desktop's display, and prints an error where there is
/// none. Adapters are chosen here.
fn quiet_drivers() {
    const CHOICE: &str = "NODEVICE_SELECT";
    if cfg!(target_os = "linux") && std::env::var_os(CHOICE).is_none() {
        // SAFETY: the first statement of `main`: there is no other thread yet.
        unsafe { std::env::set_var(CHOICE, "1") };
    }
}

/// The program `name`: does its `work` while what is said of it is printed to stderr, and ends with one line if it
/// fails.
pub fn main(name: &str, work: impl FnOnce() -> Result<()>) -> ExitCode {
    quiet_drivers();
    terminal::show();
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            terminal::say(&format!("{name}: {e}"));
            ExitCode::from(e.exit_code())
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request<T> {
    /// Text to print on stdout: help or version.
    Print(String),
    /// Work with these flags.
    Run(Box<T>),
}

/// Reads a command line, the program's name first. Flags may have underscores for dashes.
fn parse<T: Parser>(
    args: impl IntoIterator<Item = OsString>,
    screen: &Screen,
) -> Result<Request<T>> {
    let args: Vec<OsString> = args.into_iter().map(dashes).collect();
    let matches = screen.apply(T::command(), &args).try_get_matches_from(args);
    match matches.and_then(|m| T::from_arg_matches(&m)) {
        Ok(flags) => Ok(Request::Run(Box::new(flags))),
        Err(e) if !e.use_stderr() => Ok(Request::Print(e.render().to_string())),
        Err(e) => usage(clap_line(&e.render().to_string())),
    }
}

/// Prints to stdout. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// If stdout cannot be written for another reason.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Refuses an output file that could not be written, before hours of work for it.
fn check_output(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return usage(format!(
            "--out {}: there is no folder {}",
            path.display(),
            folder.display()
        ));
    }
    if path.is_dir() {
        return usage(format!("--out {}: is a folder", path.display()));
    }
    Ok(())
}

/// Writes a small JSON file, ending with a newline.
fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|e| file("write", path, &e))
}
