//! `train`: distils CLIP models. Parses, calls the library, prints.

use clip_distill::backend::devices;
use clip_distill::programs::command_line::{Request, parse};
use clip_distill::programs::{self, ablation, demo, print};
use clip_distill::report;
use clip_distill::run::{dry_run, interrupt, stages};
use clip_distill::settings::error::Error;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    programs::main("train", work)
}

fn work() -> Result<(), Error> {
    let answer = match parse(std::env::args_os())? {
        Request::Print(text) => return print(&text),
        Request::Devices => {
            let lines: Vec<String> = devices().iter().map(ToString::to_string).collect();
            lines.join("\n")
        }
        Request::Demo(config) => {
            interrupt::install();
            demo::run(&config)?
        }
        Request::Ablation(plan) => {
            interrupt::install();
            ablation::run(&plan)?
        }
        Request::Report(run, others) => {
            format!("report: {}", report::write(&run, &others)?.display())
        }
        Request::Run(settings, call) if call.dry_run => dry_run::dry_run(&settings)?,
        Request::Run(settings, call) => {
            interrupt::install();
            let done = stages::train(&settings, &call, "train")?;
            format!(
                "{} steps; checkpoint: {}; report: {}",
                done.steps,
                done.checkpoint.display(),
                done.folder.join(report::FILE).display()
            )
        }
    };
    print(&format!("{answer}\n"))
}
