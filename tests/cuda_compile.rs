//! Every CUDA kernel compiled for real GPUs, which needs none: registers, memory, spills, tensor cores.
//!
//! NVRTC does it, the compiler that a run uses as well; where it is missing (CLIP_DISTILL_CUDA_PATH may point to
//! it) the tests say so and pass, unless CLIP_DISTILL_REQUIRE contains `nvrtc`. CLIP_DISTILL_NVRTC_ROOTS may name
//! folders of other versions of it, with `:` between them, to be tested as well.

use clip_distill::backend::cuda::{KernelReport, compile_report};
use std::collections::BTreeSet;
use std::process::Command;

#[path = "common/require.rs"]
mod require;

use require::{Part, require};

/// Environment variable with the folders of other versions.
const ROOTS: &str = "CLIP_DISTILL_NVRTC_ROOTS";
/// Set where the test below runs with another version than the one that the kernels were written with.
const OTHER: &str = "CLIP_DISTILL_NVRTC_IS_ANOTHER";
/// The versions with which no kernel may spill.
const WITHOUT_SPILLS: [&str; 2] = ["NVRTC 12.8", "NVRTC 13.0"];
/// Bytes that a thread may spill with another one: the assembler of 13.5 limits three kernels to fewer registers, of its
/// own accord, and spills one register, 4 bytes stored and loaded.
const SPILLED_BY_OTHERS: usize = 8;

fn print(architecture: &str, kernels: &[KernelReport]) {
    println!(
        "{architecture:<32} {:>9} {:>9} {:>6} {:>6} {:>9} {:>6}",
        "arguments", "registers", "shared", "stack", "spilled", "tensor"
    );
    for k in kernels {
        println!(
            "  {:<30} {:>9} {:>9} {:>6} {:>6} {:>9} {:>6}",
            k.entry,
            k.arguments,
            k.registers,
            k.shared,
            k.stack,
            k.spill_stores + k.spill_loads,
            k.tensor
        );
    }
}

#[test]
fn every_kernel_compiles_without_spills() {
    for architecture in ["sm_75", "sm_80", "sm_90a"] {
        let checked = format!("kernels compiled for {architecture}");
        let Some(kernels) = require(Part::Nvrtc, &checked, compile_report(architecture)) else {
            return;
        };
        let version = version();
        let strict = std::env::var_os(OTHER).is_none() || WITHOUT_SPILLS.contains(&&*version);
        let allowed = if strict { 0 } else { SPILLED_BY_OTHERS };
        println!("{version}");
        print(architecture, &kernels);
        assert!(!kernels.is_empty(), "{architecture}: no kernel");
        for k in &kernels {
            let spilled = k.spill_stores + k.spill_loads;
            assert!(
                spilled <= allowed,
                "{} for {architecture} spills: {k:?}",
                k.entry
            );
            assert!(
                k.stack <= allowed,
                "{} for {architecture} has arrays in local memory: {k:?}",
                k.entry
            );
        }
        // What multiplies bf16 matrices does so on tensor cores, in every kernel that says so by its name.
        for k in kernels.iter().filter(|k| on_tensor_cores(&k.entry)) {
            assert!(
                k.tensor > 0,
                "{} for {architecture} uses no tensor core: {k:?}",
                k.entry
            );
        }
    }
}

/// Which NVRTC is found, as `NVRTC 12.8`.
fn version() -> String {
    let error = compile_report("sm_none").unwrap_err().to_string();
    let at = error.find("NVRTC").unwrap();
    error[at..]
        .splitn(3, ' ')
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A version may do without a run path to its own parts, so nothing but the folder may help the loader; and libraries of
/// two versions do not mix in one process.
#[test]
fn every_kernel_compiles_with_other_versions_of_nvrtc() {
    let roots = std::env::var_os(ROOTS).filter(|roots| !roots.is_empty());
    let found = roots.ok_or_else(|| format!("{ROOTS} names no other version"));
    let Some(roots) = require(Part::NvrtcOthers, "kernels compiled by them", found) else {
        return;
    };
    let mut versions = BTreeSet::new();
    for root in std::env::split_paths(&roots).filter(|r| !r.as_os_str().is_empty()) {
        let done = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "every_kernel_compiles_without_spills",
                "--nocapture",
            ])
            .env("CLIP_DISTILL_CUDA_PATH", &root)
            .env("CLIP_DISTILL_REQUIRE", "nvrtc")
            .env(OTHER, "1")
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        let version = text.lines().find(|l| l.starts_with("NVRTC "));
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {text}{told}", root.display());
        println!("{}: {version:?} compiles every kernel", root.display());
        let new = versions.insert(version.map(str::to_owned));
        assert!(new, "{}: {version:?} once more", root.display());
    }
}

/// The kernels whose speed rests on tensor cores.
fn on_tensor_cores(entry: &str) -> bool {
    let products = ["attention", "conv2d"];
    // One query an image makes no matrix product.
    let pooling = entry.starts_with("attention_pool");
    products.iter().any(|p| entry.starts_with(p)) && entry.ends_with("_bf16") && !pooling
}

#[test]
fn an_unknown_architecture_is_an_error_and_no_crash() {
    for architecture in ["sm_7", "compute", "", "sm_80 -x"] {
        let error = compile_report(architecture).unwrap_err().to_string();
        let refused = Part::Nvrtc.unless_missing(error);
        let Some(error) = require(Part::Nvrtc, "unknown architectures", refused) else {
            return;
        };
        assert!(
            error.contains("NVRTC") && !error.contains('\n'),
            "{architecture}: {error}"
        );
    }
}
