//! `embed`: unit features of images and texts, as safetensors. Parses, calls the library, prints.

use clip_distill::programs::{self, Request, embed, print};
use clip_distill::settings::error::Error;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    programs::main("embed", work)
}

fn work() -> Result<(), Error> {
    match embed::parse(std::env::args_os())? {
        Request::Print(text) => print(&text),
        Request::Run(flags) => print(&embed::embed(&flags)?),
    }
}
