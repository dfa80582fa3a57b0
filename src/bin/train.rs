//! `train`: distils CLIP models. Parses, calls the library, prints.

use clip_distill::programs::command_line::{Request, parse};
use clip_distill::programs::{ablation, demo};
use clip_distill::report;
use clip_distill::run::{dry_run, interrupt, stages};
use clip_distill::settings::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("train: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn work() -> Result<(), Error> {
    match parse(std::env::args_os())? {
        Request::Print(text) => print!("{text}"),
        Request::Demo => {
            interrupt::install();
            println!("{}", demo::run()?);
        }
        Request::Ablation(plan) => {
            interrupt::install();
            println!("{}", ablation::run(&plan)?);
        }
        Request::Report(run, others) => {
            println!("report: {}", report::write(&run, &others)?.display());
        }
        Request::Run(config, call) if call.dry_run => println!("{}", dry_run::dry_run(&config)?),
        Request::Run(config, call) => {
            interrupt::install();
            let done = stages::train(&config, &call, "train")?;
            println!(
                "{} steps; checkpoint: {}; report: {}",
                done.steps,
                done.checkpoint.display(),
                done.folder.join(report::FILE).display()
            );
        }
    }
    Ok(())
}
