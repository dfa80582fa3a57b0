//! Tests can fail: a part of the machine that is required and missing, one that is broken, and a name that is unknown.

#[path = "common/require.rs"]
mod require;

use require::{Part, judge};
use std::panic::catch_unwind;

const NO_COMPILER: &str = "emulated CUDA device: it needs a C++ compiler, and g++ does not run";

/// What the panic says.
fn panics(list: &'static str, part: Part, error: &'static str) -> String {
    let panic = catch_unwind(|| judge(list, part, "sums", Err::<(), _>(error))).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn what_is_missing_is_said_unless_it_is_required() {
    for list in ["", "cpu", "cpu, nvrtc,"] {
        let line = judge(list, Part::Emulated, "sums", Err::<(), _>(NO_COMPILER)).unwrap_err();
        assert_eq!(
            line,
            format!("not checked without emulated: sums: {NO_COMPILER}")
        );
    }
    let panic = panics("cpu,emulated", Part::Emulated, NO_COMPILER);
    assert!(
        panic.contains("CLIP_DISTILL_REQUIRE names emulated"),
        "{panic}"
    );
}

#[test]
fn what_is_broken_fails_on_every_machine() {
    let panic = panics("", Part::Emulated, "linear.cu does not compile: error: x");
    assert!(panic.contains("does not work: linear.cu"), "{panic}");
}

#[test]
fn a_gpu_needs_its_libraries() {
    for part in [Part::Nvrtc, Part::CublasLt] {
        let missing = format!(
            "cuda: {} is missing",
            if part == Part::Nvrtc {
                "NVRTC"
            } else {
                "cuBLASLt"
            }
        );
        assert!(judge("emulated", part, "", Err::<(), _>(&missing)).is_err());
        assert!(catch_unwind(|| judge("cuda", part, "", Err::<(), _>(&missing))).is_err());
    }
}

#[test]
fn an_unknown_name_is_a_failure_whatever_was_found() {
    for list in ["emulate", "cpu,Cuda", "all"] {
        let panic = catch_unwind(|| judge(list, Part::Cpu, "", Ok::<_, String>(()))).unwrap_err();
        let panic = panic.downcast::<String>().unwrap();
        assert!(panic.contains("is not one of cpu, cpu_bf16,"), "{panic}");
    }
}
