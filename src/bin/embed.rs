//! `embed`: unit features of images and texts, as safetensors. Parses, calls the library, prints.

use clip_distill::programs::{Request, embed, parse, print};
use clip_distill::settings::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("embed: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn work() -> Result<(), Error> {
    match parse::<embed::Flags>(std::env::args_os())? {
        Request::Print(text) => print(&text),
        Request::Run(flags) => print(&embed::embed(&flags)?),
    }
}
