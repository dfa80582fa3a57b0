//! What a test needs of the machine, and what becomes of the test where that is missing.
#![allow(dead_code)] // each test crate uses a part

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Environment variable with the parts that must be there, with commas between them.
pub const REQUIRE: &str = "CLIP_DISTILL_REQUIRE";
/// Environment variable that makes the emulated device what [`Cuda`] is otherwise.
const CHOICE: &str = "CLIP_DISTILL_CUDA_DEVICE";

/// Why there is no [`CpuBf16`].
pub const NO_BF16: &str = "this processor has no AVX512-BF16";

/// What some tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The processor.
    Cpu,
    /// A processor with AVX512-BF16.
    CpuBf16,
    /// A C++ compiler for the emulated CUDA device.
    Emulated,
    /// NVIDIA's run-time compiler.
    Nvrtc,
    /// Further versions of it.
    NvrtcOthers,
    /// NVIDIA's matrix products.
    CublasLt,
    /// An NVIDIA GPU with its driver and both libraries.
    Cuda,
    /// The same, of compute capability 8.0 or later.
    CudaBf16,
    /// An adapter for WGSL, of hardware or of software.
    Wgpu,
    /// One with f16.
    WgpuF16,
}

use Part::*;

impl Part {
    const ALL: [Self; 10] = [
        Cpu,
        CpuBf16,
        Emulated,
        Nvrtc,
        NvrtcOthers,
        CublasLt,
        Cuda,
        CudaBf16,
        Wgpu,
        WgpuF16,
    ];

    /// Its name in [`REQUIRE`].
    pub fn name(self) -> &'static str {
        match self {
            Cpu => "cpu",
            CpuBf16 => "cpu_bf16",
            Emulated => "emulated",
            Nvrtc => "nvrtc",
            NvrtcOthers => "nvrtc_others",
            CublasLt => "cublaslt",
            Cuda => "cuda",
            CudaBf16 => "cuda_bf16",
            Wgpu => "wgpu",
            WgpuF16 => "wgpu_f16",
        }
    }

    /// Whether `error` says that this part is missing: any other error is a failure on every machine.
    pub fn is_missing(self, error: &str) -> bool {
        const NO_GPU: [&str; 7] = [
            CHOICE,
            "no NVIDIA driver",
            "there is no NVIDIA GPU",
            "there is no --device",
            "install one of CUDA 12",
            "NVRTC is missing",
            "cuBLASLt is missing",
        ];
        let says = |words: &[&str]| words.iter().any(|w| error.contains(w));
        match self {
            Cpu => false,
            CpuBf16 => says(&[NO_BF16]),
            Emulated => says(&["it needs a C++ compiler", "it runs on Linux on x86-64 only"]),
            Nvrtc => says(&["NVRTC is missing"]),
            NvrtcOthers => says(&["names no other version"]),
            CublasLt => says(&["cuBLASLt is missing"]),
            Cuda => says(&NO_GPU) || says(&["7.5 (Turing) is the least"]),
            Wgpu => says(&["no adapter"]),
            WgpuF16 => says(&["no adapter", "it lacks the feature SHADER_F16"]),
            CudaBf16 => {
                says(&NO_GPU)
                    || says(&["7.5 (Turing) is the least", "needs compute capability 8.0"])
            }
        }
    }

    /// `error` of a call that this part has to refuse: what it says then, unless the part is missing.
    pub fn unless_missing(self, error: String) -> Result<String, String> {
        match self.is_missing(&error) {
            true => Err(error),
            false => Ok(error),
        }
    }

    /// Whether `list`, a value of [`REQUIRE`], asks for it. A GPU cannot do without the libraries.
    ///
    /// # Panics
    /// If a name in the list is not that of a part.
    fn is_required(self, list: &str) -> bool {
        let names = list.split(',').map(str::trim).filter(|n| !n.is_empty());
        let parts: Vec<Self> = names
            .map(|name| {
                let part = Self::ALL.into_iter().find(|p| p.name() == name);
                let known = Self::ALL.map(Self::name).join(", ");
                part.unwrap_or_else(|| panic!("{REQUIRE}: {name} is not one of {known}"))
            })
            .collect();
        let library = matches!(self, Nvrtc | CublasLt);
        parts.contains(&self) || (library && parts.iter().any(|p| matches!(p, Cuda | CudaBf16)))
    }
}

/// What a test needs: `found`, or `None` and a line on standard error (which the test harness does not hide) that says
/// what is not checked, once for each program.
///
/// # Panics
/// If `part` is missing and [`REQUIRE`] names it; if it is there and does not work; if [`REQUIRE`] holds a name that
/// is not that of a part.
pub fn require<T>(part: Part, checked: &str, found: Result<T, impl Display>) -> Option<T> {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let list = std::env::var(REQUIRE).unwrap_or_default();
    let found = match std::env::var_os(CHOICE) {
        Some(choice) if matches!(part, Cuda | CudaBf16) => {
            Err(format!("{CHOICE} is set to {}", choice.display()))
        }
        _ => found.map_err(|e| e.to_string()),
    };
    match judge(&list, part, checked, found) {
        Ok(found) => Some(found),
        Err(line) => {
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            if said.insert(line.clone()) {
                // Not `eprintln!`: of a test that passes the harness shows nothing.
                writeln!(std::io::stderr(), "{line}").expect("standard error");
            }
            None
        }
    }
}

/// [`require`] with the variable's value: what was found, or the line to print.
pub fn judge<T>(
    list: &str,
    part: Part,
    checked: &str,
    found: Result<T, impl Display>,
) -> Result<T, String> {
    let required = part.is_required(list);
    found.map_err(|e| {
        let error = e.to_string();
        let name = part.name();
        assert!(part.is_missing(&error), "{name} does not work: {error}");
        assert!(!required, "{REQUIRE} names {name}, and {error}");
        format!("not checked without {name}: {checked}: {error}")
    })
}
