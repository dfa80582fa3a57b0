//! Makes `src/train/demo/teacher.safetensors` from a checkpoint of `src/train/demo/teacher.toml`:
//! `cargo run --release --example pack_teacher -- logs/demo-teacher/checkpoints/step_N FILE`

use clip_distill::{backend::cpu::Cpu, train::demo::pack_teacher};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out] = &args[..] else {
        eprintln!("pack_teacher CHECKPOINT_FOLDER FILE.safetensors");
        return ExitCode::from(2);
    };
    match pack_teacher(Path::new(checkpoint), Path::new(out), &Cpu::new()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pack_teacher: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
