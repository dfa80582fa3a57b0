//! A module compiled into a shared library, and how its kernels are run.

use super::error;
use crate::backend::Result;
use crate::backend::cuda::cache;
use crate::backend::cuda::modules::{HEADERS, Module};
use crate::backend::gpu::device::Launch;
use memmap2::MmapMut;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The emulator itself: file name and text.
const EMULATOR: &[(&str, &str)] = &[
    ("emulator.h", include_str!("emulator.h")),
    ("fibers.h", include_str!("fibers.h")),
    ("block.h", include_str!("block.h")),
    ("collectives.h", include_str!("collectives.h")),
    ("shared_memory.h", include_str!("shared_memory.h")),
    ("intrinsics.h", include_str!("intrinsics.h")),
];

const OPTIONS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-ftree-vectorize",
    "-shared",
    "-fPIC",
    "-DCLIP_DISTILL_EMULATED",
    // Kernels read the same memory as several types.
    "-fno-strict-aliasing",
    // A module's shared variables are its own, also those of templates that several modules use.
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    // The same numbers with any compiler; square roots in line.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-unknown-pragmas",
    // Far below a fiber's stack.
    "-Werror=frame-larger-than=32768",
];

/// Bytes of a fiber's stack.
const STACK: usize = 64 * 1024;
/// Most threads of a block.
const THREADS: usize = 1024;
/// Bytes of pattern around dynamic shared memory: `SHARED_GUARD` of `block.h`.
const SHARED_GUARD: usize = 1024;
/// Alignment of dynamic shared memory.
const SHARED_ALIGN: usize = 128;

/// The C++ compiler.
#[derive(Debug)]
pub(super) struct Compiler {
    program: OsString,
    /// What it says of itself; part of a library's name in the cache.
    version: String,
    options: Vec<&'static str>,
}

/// The compiler of this machine, asked once.
///
/// # Errors
/// Options that depend on the processor.
fn of_this_processor() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        // Stacks are switched by hand: no shadow stack.
        let mut options = vec!["-fcf-protection=none"];
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            options.extend(["-mavx2", "-mfma"]);
        }
        options
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// If there is none, or if this is a kind of machine that the fibers do not know.
pub(super) fn compiler() -> Result<&'static Compiler> {
    static FOUND: OnceLock<std::result::Result<Compiler, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err("it runs on Linux on x86-64 only".into());
        }
        let program = std::env::var_os("CXX").unwrap_or_else(|| "g++".into());
        let name = program.to_string_lossy().into_owned();
        let output = match Command::new(&program).arg("--version").output() {
            Ok(output) if output.status.success() => output,
            _ => {
                return Err(format!(
                    "it needs a C++ compiler, and {name} does not run: install g++ or set CXX"
                ));
            }
        };
        Ok(Compiler {
            program,
            version: String::from_utf8_lossy(&output.stdout).into_owned(),
            options: [OPTIONS, &of_this_processor()].concat(),
        })
    });
    match found {
        Ok(compiler) => Ok(compiler),
        Err(detail) => error(detail.clone()),
    }
}

impl Compiler {
    /// Compiles into `folder`, which is empty, and returns the library's path.
    fn compile(&self, module: &Module, folder: &Path) -> std::result::Result<PathBuf, String> {
        let source = format!("{}.cu", module.name);
        let files = HEADERS.iter().chain(EMULATOR).copied();
        for (name, text) in files.chain([(source.as_str(), module.text().as_str())]) {
            std::fs::write(folder.join(name), text)
                .map_err(|e| format!("{}: {e}", folder.join(name).display()))?;
        }
        let output = Command::new(&self.program)
            .current_dir(folder)
            .args(&self.options)
            .args(["-x", "c++", &source, "-o", "module.so"])
            .output()
            .map_err(|e| format!("{}: {e}", self.program.to_string_lossy()))?;
        if output.status.success() {
            return Ok(folder.join("module.so"));
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<_> = text
            .lines()
            .filter(|l| l.contains("error"))
            .take(5)
            .collect();
        Err(format!("{source} does not compile: {}", errors.join("; ")))
    }
}

/// `emulator::Entry`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Entry {
    call: unsafe extern "C" fn(*const u8),
    pub argument_bytes: usize,
    pub threads: u32,
    takes: [u8; 64],
}

impl Entry {
    /// Name of the struct that it takes.
    pub fn takes(&self) -> String {
        text(&self.takes)
    }
}

/// `emulator::Fault`.
#[repr(C)]
#[derive(Clone)]
pub(super) struct Fault {
    found: u32,
    pub block: [u32; 3],
    pub thread: i32,
    what: [u8; 400],
}

impl Fault {
    pub fn text(&self) -> String {
        text(&self.what)
    }
}

/// A C string in an array.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// `emulator::Run`.
#[repr(C)]
struct Run {
    arguments: *const u8,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_bytes: u32,
    seed: u64,
    next: *const AtomicU64,
    stopped: *const AtomicU32,
    stacks: *mut u8,
    stack_bytes: usize,
    dynamic_shared: *mut u8,
    watched: *const (usize, usize),
    watched_count: usize,
    fault: Fault,
}

/// What one thread of the system needs to run blocks: stacks for their threads.
#[derive(Debug)]
pub(super) struct Worker {
    stacks: MmapMut,
    shared: Vec<u8>,
}

impl Worker {
    pub fn new() -> Result<Self> {
        match MmapMut::map_anon(STACK * THREADS) {
            Ok(stacks) => Ok(Self {
                stacks,
                shared: Vec::new(),
            }),
            Err(e) => error(format!("no memory for the threads' stacks: {e}")),
        }
    }

    /// Dynamic shared memory of that many bytes, with its guards.
    fn shared(&mut self, bytes: usize) -> *mut u8 {
        self.shared
            .resize(bytes + 2 * SHARED_GUARD + SHARED_ALIGN, 0);
        let base = self.shared.as_mut_ptr();
        // SAFETY: the offset is less than what was added for it.
        unsafe { base.add(base.align_offset(SHARED_ALIGN) + SHARED_GUARD) }
    }
}

/// The bytes of a struct, aligned for any struct.
pub(super) fn aligned(bytes: &[u8]) -> Vec<u128> {
    let mut words = vec![0u128; bytes.len().div_ceil(16)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

/// A launch, as its workers share it.
pub(super) struct Job<'a> {
    pub entry: &'a Entry,
    pub arguments: Vec<u128>,
    pub launch: Launch,
    pub seed: u64,
    pub next: AtomicU64,
    pub stopped: AtomicU32,
    pub watched: &'a [(usize, usize)],
}

/// A compiled module, loaded for as long as the process lives.
#[derive(Debug)]
pub(super) struct Library {
    library: libloading::Library,
    name: &'static str,
    run: unsafe extern "C" fn(*const Entry, *mut Run),
}

impl Library {
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        // SAFETY: the macro KERNEL defines such symbols with this type.
        match unsafe {
            self.library
                .get::<*const Entry>(format!("{name}_entry\0").as_bytes())
        } {
            // SAFETY: a constant of a library that stays loaded.
            Ok(symbol) => Ok(unsafe { &**symbol }),
            Err(_) => error(format!("{}.cu has no kernel {name}", self.name)),
        }
    }

    /// Runs all blocks; of several faults, the one in the first block.
    pub fn run(&self, job: &Job, workers: &mut [Worker]) -> Option<Fault> {
        let (first, others) = workers.split_first_mut()?;
        let mut faults = std::thread::scope(|scope| {
            let running: Vec<_> = others
                .iter_mut()
                .map(|worker| scope.spawn(|| self.work(job, worker)))
                .collect();
            let mut faults = vec![self.work(job, first)];
            faults.extend(running.into_iter().map(|r| r.join().ok().flatten()));
            faults
        });
        faults.retain(Option::is_some);
        let [gx, gy, _] = job.launch.grid.map(u64::from);
        let linear = |f: &Fault| {
            let [x, y, z] = f.block.map(u64::from);
            x + gx * (y + gy * z)
        };
        faults.into_iter().flatten().min_by_key(linear)
    }

    /// Takes blocks until none is left.
    fn work(&self, job: &Job, worker: &mut Worker) -> Option<Fault> {
        let shared = job.launch.shared;
        let mut run = Run {
            arguments: job.arguments.as_ptr().cast(),
            grid: job.launch.grid,
            block: [job.launch.block, 1, 1],
            dynamic_bytes: shared,
            seed: job.seed,
            next: &job.next,
            stopped: &job.stopped,
            dynamic_shared: worker.shared(shared as usize),
            stacks: worker.stacks.as_mut_ptr(),
            stack_bytes: STACK,
            watched: job.watched.as_ptr(),
            watched_count: job.watched.len(),
            fault: Fault {
                found: 0,
                block: [0; 3],
                thread: -1,
                what: [0; 400],
            },
        };
        // SAFETY: the structs are laid out as the library's; stacks and shared memory are this worker's own. What
        // the kernel reads and writes is as far in its hands as on a GPU.
        unsafe { (self.run)(job.entry, &mut run) };
        (run.fault.found != 0).then_some(run.fault)
    }
}

/// The module's library on disk: from the cache, or compiled now.
pub(super) fn file(module: &Module) -> Result<PathBuf> {
    let compiler = compiler()?;
    let options = compiler.options.join(" ");
    let text = module.text();
    let parts = [module.name, &text, &compiler.version, &options];
    let texts = HEADERS
        .iter()
        .chain(EMULATOR)
        .flat_map(|(name, text)| [*name, *text]);
    let name = format!(
        "{}-{}.so",
        module.name,
        cache::key(parts.into_iter().chain(texts))
    );
    cache::file("emulated", &name, |folder| compiler.compile(module, folder)).or_else(error)
}

/// The module's library: loaded already, from the cache, or compiled now.
pub(super) fn load(module: &'static Module) -> Result<&'static Library> {
    // By the text's address: a module is a constant of this program.
    static LOADED: Mutex<Option<HashMap<usize, &'static Library>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    let key = module.source.as_ptr() as usize;
    if let Some(library) = loaded.get(&key) {
        return Ok(library);
    }
    let path = file(module)?;
    // SAFETY: our own library, without initialisers.
    let library = match unsafe { libloading::Library::new(&path) } {
        Ok(library) => library,
        Err(e) => return error(format!("{}: {e}", path.display())),
    };
    // SAFETY: `emulator.h` defines it with this type.
    let run = match unsafe { library.get(b"emulator_run\0") } {
        Ok(run) => *run,
        Err(e) => return error(format!("{}: {e}", path.display())),
    };
    let library = &*Box::leak(Box::new(Library {
        library,
        name: module.name,
        run,
    }));
    loaded.insert(key, library);
    Ok(library)
}
