//! Packs a checkpoint of the demonstration's teacher as the program carries it, rounded to bf16:
//! `cargo run --release --example pack_demo_teacher -- CHECKPOINT src/run/embedded/teacher.safetensors`.

use clip_distill::backend::cpu::Cpu;
use clip_distill::run::embedded;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out] = args.as_slice() else {
        eprintln!("usage: pack_demo_teacher CHECKPOINT OUT.safetensors");
        return ExitCode::from(2);
    };
    match embedded::pack_teacher(Path::new(checkpoint), Path::new(out), &Cpu::new()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pack_demo_teacher: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
