//! The real `train` program on an adapter for WGSL: the CPU's losses, resuming to the bit, and what it says where there
//! is no adapter.

use clip_distill::backend::wgpu;
use program::{Folder, RESNET, STUDENT, expect, killed_at, refuses, same};
use require::{Part, require};
use std::process::Command;

#[path = "common/program.rs"]
mod program;
#[path = "common/require.rs"]
mod require;
#[path = "common/tolerance.rs"]
mod tolerance;

/// A folder with the models' configurations, if there is an adapter.
fn folder(part: Part, checked: &str) -> Option<Folder> {
    let options = wgpu::Options {
        f16: part == Part::WgpuF16,
        ..Default::default()
    };
    require(part, checked, wgpu::open(&options))?;
    Some(Folder::new(&[
        ("student.json", STUDENT),
        ("resnet.json", RESNET),
    ]))
}

const LOSSES: &str =
    "--method intra-kd --alpha-affinity 1 --alpha-cross-kd 1 --alpha-gd 10 --alpha-afd 1";

/// Runs of `flags` on the CPU and in WGSL have the same terms, within `tolerance`, at every step.
fn agree(folder: &Folder, name: &str, flags: &str, precision: &str, tolerance: f64) {
    let run = |backend: &str| {
        let name = format!("{name}-{backend}");
        let precision = if backend == "cpu" { "fp32" } else { precision };
        let args = format!(
            "--train-data demo --teacher demo {LOSSES} --steps 4 --log-every 1 --workers 1 --warmup 1 {flags} \
             --name {name} --backend {backend} --precision {precision}"
        );
        expect(folder.train(&args), 0);
        folder.terms(&name)
    };
    let (want, got) = (run("cpu"), run("wgpu"));
    assert_eq!((got.len(), got[0].len()), (4, want[0].len()));
    assert!(want[0].len() >= 10, "every loss takes part");
    program::agree(&format!("{name} {precision}"), &got, &want, tolerance);
}

#[test]
fn losses_are_those_of_the_cpu() {
    let Some(folder) = folder(Part::Wgpu, "training in WGSL") else {
        return;
    };
    let tolerance = f64::from(tolerance::TRAJECTORY);
    let vit = "--model student.json --batch-size 8 --lr 1e-3 --alpha-mfd 50";
    agree(&folder, "vit", vit, "fp32", tolerance);
    let parts = format!("{vit} --accum-freq 2 --grad-checkpointing");
    agree(&folder, "parts", &parts, "fp32", tolerance);
    let resnet = "--model resnet.json --batch-size 8 --lr 1e-3";
    agree(&folder, "resnet", resnet, "fp32", tolerance);
}

#[test]
fn losses_in_f16_are_those_of_the_cpu() {
    let Some(folder) = folder(Part::WgpuF16, "training in WGSL in f16") else {
        return;
    };
    // So slowly that a step skipped while the loss scale falls makes no difference.
    let flags = "--model student.json --batch-size 8 --lr 1e-7 --alpha-mfd 50";
    agree(&folder, "half", flags, "amp_fp16", tolerance::TERM_F16);
    let last = folder.metrics("half-wgpu").pop().unwrap();
    let (scale, skipped) = (last["amp_scale"].as_f64(), last["skipped_steps"].as_u64());
    let (scale, skipped) = (scale.unwrap(), skipped.unwrap());
    assert_eq!(scale, 65536.0 / f64::powi(2.0, skipped as i32));
}

#[test]
fn killed_runs_resume_to_the_bit() {
    for (part, precision) in [(Part::Wgpu, "fp32"), (Part::WgpuF16, "amp_fp16")] {
        let Some(folder) = folder(part, "resuming in WGSL") else {
            continue;
        };
        let run = |name: &str, more: &str| {
            folder.train(&format!(
                "--train-data demo --teacher demo {LOSSES} --model student.json --batch-size 8 --steps 6 --log-every 1 \
                 --workers 1 --lr 1e-3 --warmup 1 --save-every-steps 1 --backend wgpu --precision {precision} \
                 --name {name} {more}"
            ))
        };
        expect(run("whole", ""), 0);
        let checkpoint =
            |name: &str, step| folder.path(&format!("logs/{name}/checkpoints/step_{step}"));
        killed_at(run("killed", ""), &checkpoint("killed", 3));
        expect(run("killed", "--resume latest"), 0);
        same(&checkpoint("whole", 6), &checkpoint("killed", 6));
    }
}

#[test]
fn what_cannot_be_had_is_said_in_one_line() {
    let folder = Folder::new(&[("student.json", STUDENT)]);
    let hidden = |mut command: Command| {
        // No Vulkan driver is found by these.
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, "/nonexistent.json");
        }
        command
    };
    let run = "--train-data demo --model student.json --method clip --batch-size 8 --steps 1 --backend wgpu";
    if cfg!(target_os = "linux") {
        refuses(
            hidden(folder.train(run)),
            &["--backend wgpu: no adapter", "mesa-vulkan-drivers"],
        );
    }
    let other = folder.train(&format!("{run} --precision amp_bf16"));
    refuses(other, &["there is no --precision amp_bf16", "amp_fp16"]);
    let options = wgpu::Options::default();
    if require(Part::Wgpu, "choosing an adapter", wgpu::open(&options)).is_some() {
        let other = folder.train(&format!("{run} --device imagined"));
        refuses(
            other,
            &["there is no adapter whose name contains `imagined`", "0: "],
        );
        let other = folder.train(&format!("{run} --device 77"));
        refuses(other, &["there is no adapter 77"]);
    }
}
