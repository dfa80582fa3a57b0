//! The real `train` on NVIDIA's driver and cuBLASLt replaced by the stand-in of `tests/driver/`: everything of the
//! CUDA backend that the emulated device replaces runs here, with kernels that NVRTC compiled.
//!
//! Where there is no C++ compiler or no NVRTC (CLIP_DISTILL_CUDA_PATH may point to it) the tests say so and pass, unless
//! CLIP_DISTILL_REQUIRE contains `emulated` and `nvrtc`.

use clip_distill::backend::cuda::{compile_report, emulated_libraries};
use serde_json::Value;
use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "common/program.rs"]
mod program;
#[path = "common/require.rs"]
mod require;

use program::{Folder, RESNET, STUDENT, expect, refuses};
use require::{Part, require};

/// Its weights fill several blocks of what is uploaded through.
const WORDY: &str = r#"{"embed_dim": 16,
  "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
  "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 192, "heads": 2, "layers": 1}}"#;

/// As the emulated device's libraries are compiled: the same bits of the same sums.
const OPTIONS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-ftree-vectorize",
    "-march=native",
    "-ffp-contract=off",
    "-fcf-protection=none",
    "-fvisibility=hidden",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-shared",
    "-fPIC",
    "-Wl,-soname,libcuda.so.1",
];

/// A folder with the stand-in and models to train.
struct StandIn {
    folder: Folder,
    /// The emulated device's libraries, with `:` between them.
    libraries: String,
}

impl StandIn {
    fn new() -> Option<Self> {
        let checked = "the driver's calls";
        let libraries = require(Part::Emulated, checked, emulated_libraries())?;
        let refused = compile_report("sm_none").unwrap_err().to_string();
        require(Part::Nvrtc, checked, Part::Nvrtc.unless_missing(refused))?;
        let folder = Folder::new(&[
            ("student.json", STUDENT),
            ("resnet.json", RESNET),
            ("wordy.json", WORDY),
        ]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = |name: &str| root.join("tests/driver").join(name);
        let driver = folder.path("cuda/libcuda.so.1");
        std::fs::create_dir(folder.path("cuda")).unwrap();
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "g++".into()));
        compiler
            .args(OPTIONS)
            .arg("-I")
            .arg(root.join("src/backend/cuda/emulated"))
            .args(
                ["device", "stream", "memory", "kernels", "cublaslt"]
                    .map(|n| source(&format!("{n}.cpp"))),
            )
            .arg("-o")
            .arg(&driver)
            .args(["-ldl", "-lpthread"]);
        expect(compiler, 0);
        for name in ["libcuda.so", "libcublasLt.so.12"] {
            symlink(&driver, folder.path("cuda").join(name)).unwrap();
        }
        // NVRTC beside it, if it is not where the loader looks.
        let given = std::env::var_os("CLIP_DISTILL_CUDA_PATH").map(PathBuf::from);
        for base in given.iter().flat_map(|p| [p.clone(), p.join("nvidia")]) {
            for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
                let at = folder.path("cuda").join(entry.file_name());
                if !at.exists() {
                    symlink(entry.path(), at).unwrap();
                }
            }
        }
        // What NVRTC compiles stays for the next time; which products are fastest is found out anew.
        let cubins = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubin");
        std::fs::create_dir_all(&cubins).unwrap();
        std::fs::create_dir_all(folder.path("cache/clip-distill")).unwrap();
        symlink(cubins, folder.path("cache/clip-distill/cubin")).unwrap();
        let paths = libraries.iter().map(|p| p.to_str().unwrap());
        Some(Self {
            libraries: paths.collect::<Vec<_>>().join(":"),
            folder,
        })
    }

    /// `train` on it; what it did is in the file `report` afterwards.
    fn train(&self, flags: &str) -> Command {
        let mut command = self.folder.train(&format!(
            "--train-data demo --teacher demo --method intra-kd --batch-size 8 --workers 1 --lr 1e-3 --warmup 1 \
             --log-every 1 --backend cuda {flags}"
        ));
        command
            .env("CLIP_DISTILL_CUDA_PATH", self.folder.path("cuda"))
            .env("LD_LIBRARY_PATH", self.folder.path("cuda"))
            .env_remove("CLIP_DISTILL_CUDA_DEVICE")
            .env("XDG_CACHE_HOME", self.folder.path("cache"))
            .env("CLIP_DISTILL_STAND_IN_LIBRARIES", &self.libraries)
            .env("CLIP_DISTILL_STAND_IN_REPORT", self.folder.path("report"));
        command
    }

    /// What the stand-in counted in the last run, in which nothing may have been wrong.
    fn counts(&self, told: &str) -> HashMap<String, u64> {
        let report = self.folder.path("report");
        let text = std::fs::read_to_string(&report).unwrap();
        // The next run writes its own, or has none.
        std::fs::remove_file(report).unwrap();
        let counts: HashMap<String, u64> = text
            .lines()
            .map(|line| {
                let (name, number) = line.rsplit_once(' ').unwrap();
                (name.into(), number.parse().unwrap())
            })
            .collect();
        for (name, &number) in &counts {
            let bad = name == "violations" || name.ends_with("not given back");
            assert!(!bad || number == 0, "{name}: {number}\n{text}{told}");
        }
        counts
    }

    /// All numbers of a run but for times.
    fn numbers(&self, run: &str) -> Vec<Vec<(String, Value)>> {
        let lines = self.folder.metrics(run);
        let timed = |key: &str| ["data_wait", "samples_per_s"].contains(&key);
        let numbers = |line: &Value| {
            let all = line.as_object().unwrap().clone();
            all.into_iter().filter(|(key, _)| !timed(key)).collect()
        };
        lines.iter().map(numbers).collect()
    }
}

#[test]
fn the_program_trains_on_the_driver_as_on_the_emulated_device() {
    let Some(place) = StandIn::new() else { return };
    for (n, (model, flags)) in [
        (
            "student.json",
            "--precision fp32 --alpha-mfd 50 --alpha-affinity 1 --alpha-cross-kd 1 --alpha-gd 10",
        ),
        (
            "wordy.json",
            "--precision amp_bf16 --accum-freq 2 --alpha-afd 1",
        ),
        ("resnet.json", "--precision fp32 --alpha-affinity 1"),
    ]
    .into_iter()
    .enumerate()
    {
        let flags = format!("--model {model} --steps 6 {flags}");
        let mut reference = place.train(&format!("{flags} --name reference-{n}"));
        let cache = std::env::var_os("XDG_CACHE_HOME").unwrap_or_default();
        reference
            .env("CLIP_DISTILL_CUDA_DEVICE", "emulated")
            .env("XDG_CACHE_HOME", cache);
        expect(reference, 0);
        let want = place.numbers(&format!("reference-{n}"));
        assert_eq!(want.len(), 6);
        for (graphs, seed) in [("1", "1"), ("0", "2")] {
            let name = format!("driver-{n}-{graphs}");
            let mut command = place.train(&format!("{flags} --name {name}"));
            command.env("CLIP_DISTILL_CUDA_GRAPHS", graphs);
            command.env("CLIP_DISTILL_STAND_IN_SEED", seed);
            let told = String::from_utf8(expect(command, 0).stderr).unwrap();
            let counts = place.counts(&told);
            println!("{name}: {counts:?}");
            let got = place.numbers(&name);
            assert_eq!(got.len(), want.len(), "{name}: {told}");
            for (got, want) in got.iter().zip(&want) {
                for (got, want) in got.iter().zip(want) {
                    assert_eq!(got, want, "{name}: {told}");
                }
                assert_eq!(got.len(), want.len(), "{name}: {told}");
            }
            let done = |what: &str| counts.get(what).copied().unwrap_or(0) > 0;
            let replayed = done("graphs launched");
            assert_eq!(replayed, graphs == "1", "{told}");
            assert_eq!(
                done("launches captured") && done("products captured"),
                replayed
            );
            // The first run tries cuBLASLt's algorithms; the second finds what it chose.
            assert_eq!(done("spans timed"), graphs == "1", "{told}");
            assert_eq!(
                told.contains("replayed as CUDA graphs: "),
                replayed,
                "{told}"
            );
        }
    }
}

#[test]
fn what_the_driver_refuses_is_said_in_one_line() {
    let Some(place) = StandIn::new() else { return };
    let run = |flags: &str, variables: &[(&str, &str)]| {
        let mut command = place.train(&format!("--model student.json --steps 2 --name x {flags}"));
        for (name, value) in variables {
            command.env(format!("CLIP_DISTILL_STAND_IN_{name}"), value);
        }
        command
    };
    refuses(run("--device 1", &[]), &["--device 1", "has 1"]);
    refuses(run("", &[("DRIVER", "11080")]), &["CUDA 11.8", "CUDA 12"]);
    refuses(run("", &[("CAPABILITY", "70")]), &["7.0", "7.5"]);
    let half = run("--precision amp_bf16", &[("CAPABILITY", "75")]);
    refuses(half, &["amp_bf16", "7.5", "fp32"]);
    // A code that is in no list of ours, which the driver explains; and one that it does not know either.
    let later = [
        "code 4711",
        "what a later driver says",
        "OF_A_LATER_VERSION",
    ];
    for call in [
        "cuInit",
        "cuDevicePrimaryCtxRetain",
        "cuStreamCreate",
        "cuMemAllocAsync",
    ] {
        for (code, words) in [
            ("4711", &later[..]),
            ("-7", &["code -7", "unknown to this driver"]),
        ] {
            let mut failing = run("", &[("FAIL", call), ("CODE", code)]);
            let told = String::from_utf8(failing.output().unwrap().stderr).unwrap();
            let last = told.lines().last().unwrap();
            for word in words.iter().chain([&call]) {
                assert!(last.contains(word), "no {word:?} in: {told}");
            }
        }
    }
    // In the middle of a run, where copies and kernels of earlier steps are unfinished.
    for call in ["cuEventSynchronize", "cuGraphLaunch"] {
        let mut failing = place.train(&format!("--model student.json --steps 6 --name {call}"));
        failing.env("CLIP_DISTILL_STAND_IN_FAIL", call);
        let told = String::from_utf8(expect(failing, 1).stderr).unwrap();
        assert!(told.lines().last().unwrap().contains("code 4711"), "{told}");
    }
    // Enough for the weights, and for nothing at all.
    for (memory, code) in [("48000000", 1), ("1000", 2)] {
        let told = String::from_utf8(expect(run("", &[("MEMORY", memory)]), code).stderr).unwrap();
        let last = told.lines().last().unwrap();
        for word in [
            "out of memory",
            "asked for",
            "--batch-size",
            "--accum-freq",
            "--grad-checkpointing",
        ] {
            assert!(last.contains(word), "no {word:?} in: {told}");
        }
        let trims = place.counts(&told).get("trims").copied().unwrap_or(0);
        assert!(
            trims > 0,
            "no memory was given back before giving up: {told}"
        );
    }
}
