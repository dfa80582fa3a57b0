//! `eval`: zero-shot accuracy and retrieval of a CLIP model. Parses, calls the library, prints.

use clip_distill::programs::{self, Request, eval, print};
use clip_distill::settings::error::Error;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    programs::main("eval", work)
}

fn work() -> Result<(), Error> {
    match eval::parse(std::env::args_os())? {
        Request::Print(text) => print(&text),
        Request::Run(flags) => {
            let report = eval::evaluate(&flags)?;
            print(&report.table)?;
            report.write()?;
            print(&format!("results: {}\n", report.path.display()))
        }
    }
}
