//! A software CUDA device: the kernels of `cuda/*.cu`, compiled by a C++ compiler and run on the processor.
//!
//! It implements [`Device`], so that the backend's Rust code (arguments, grids, buffer sizes, order) and the
//! kernels themselves run in `cargo test` on a machine without a GPU. It is slow, and strict: what a GPU would
//! let pass, or do only sometimes, is an error here.
//!
//! - A thread is a fiber; between barriers and other collectives, threads run in an order drawn anew each time, so
//!   that a missing barrier gives wrong numbers.
//! - Collectives that not all threads of a warp or block reach, barriers with exited threads and deadlocks end the
//!   launch with [`Error::Fault`], which names kernel, block, warp and thread.
//! - Fresh, freed and shared memory holds a pattern that is NaN as f32 and bf16 and absurd as an integer. Every
//!   buffer is between two zones of it, checked after each launch.
//! - An asynchronous copy lands at the wait for its group and no sooner, and an `ldmatrix` reads a lane's row when
//!   that lane comes: what other lanes still have to write or to wait for is not in it.
//!
//! After a fault the device goes on; what the kernel wrote so far stays.
//!
//! | variable | meaning |
//! |---|---|
//! | `CLIP_DISTILL_EMULATOR_SEED` | another order of threads (a number; 0 if unset) |
//! | `CLIP_DISTILL_EMULATOR_WATCH` | `1`: look at the zones around buffers after each step of each thread, which names the thread that wrote out of bounds, slowly |
//! | `CXX` | the compiler, `g++` if unset |
//! | `XDG_CACHE_HOME` | compiled kernels are in `clip-distill/emulated` below it (else below `~/.cache`) |

mod library;
mod memory;
mod product;
#[cfg(test)]
mod tests;

use super::device::{Address, Call, Device, Kernel, Launch, Product, Replay};
use super::modules::{self, Module};
use crate::backend::{Error, Result, device_error};
use crate::tensor::DType;
use library::{Entry, Fault, Worker};
use memory::Memory;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads of a launch above which further threads of the system take part.
const WORTH_A_WORKER: u64 = 2048;
/// Dynamic shared memory that a block can have on the GPUs that this backend is made for, in bytes (sm_90).
const SHARED_LIMIT: u32 = 227 * 1024;

/// An error of this device rather than of a kernel.
fn error<T>(detail: impl Into<String>) -> Result<T> {
    device_error("emulated CUDA device", detail)
}

/// The emulated device.
///
/// # Errors
/// Where there is no C++ compiler, and where a variable above has an invalid value.
pub(super) fn emulated() -> Result<Arc<dyn Replay>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let seed = match variable("CLIP_DISTILL_EMULATOR_SEED").as_str() {
        "" => 0,
        text => match text.parse() {
            Ok(seed) => seed,
            Err(_) => return error(format!("CLIP_DISTILL_EMULATOR_SEED={text} is not a number")),
        },
    };
    let watch = match variable("CLIP_DISTILL_EMULATOR_WATCH").as_str() {
        "" | "0" => false,
        "1" => true,
        text => return error(format!("CLIP_DISTILL_EMULATOR_WATCH={text} is not 0 or 1")),
    };
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    Ok(Arc::new(Emulated::new(
        modules::MODULES,
        seed,
        watch,
        workers,
    )?))
}

/// The kernels compiled for the emulated device, one library for each file of `cuda/`.
///
/// # Errors
/// Where there is no C++ compiler, or it rejects a file.
pub fn emulated_libraries() -> Result<Vec<PathBuf>> {
    modules::MODULES.iter().map(library::file).collect()
}

/// What a stream's order guards.
#[derive(Debug)]
struct State {
    memory: Memory,
    workers: Vec<Worker>,
    last: Option<Kernel>,
    launches: u64,
    /// What was fetched and is not collected yet, by its ticket.
    fetched: HashMap<u64, Vec<u8>>,
    tickets: u64,
    waits: u64,
    /// Calls to replay, by number.
    pieces: HashMap<u64, Arc<[Call]>>,
    captured: u64,
}

#[derive(Debug)]
struct Emulated {
    modules: &'static [Module],
    seed: u64,
    watch: bool,
    workers: usize,
    state: Mutex<State>,
}

impl Emulated {
    fn new(modules: &'static [Module], seed: u64, watch: bool, workers: usize) -> Result<Self> {
        library::compiler()?;
        Ok(Self {
            modules,
            seed,
            watch,
            workers: if watch { 1 } else { workers },
            state: Mutex::new(State {
                memory: Memory::default(),
                workers: Vec::new(),
                last: None,
                launches: 0,
                fetched: HashMap::new(),
                tickets: 0,
                waits: 0,
                pieces: HashMap::new(),
                captured: 0,
            }),
        })
    }

    fn module(&self, kernel: Kernel) -> Result<&'static Module> {
        match self.modules.iter().find(|m| m.name == kernel.module) {
            Some(module) => Ok(module),
            None => error(format!("there is no module {}", kernel.module)),
        }
    }

    /// The state, whose every change leaves it whole even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reports what the zones around all buffers show: whose fault it is can only be guessed.
    fn check(&mut self) -> Result<()> {
        match self.memory.damage() {
            None => Ok(()),
            Some(fault) => Err(Error::Fault {
                kernel: match self.last {
                    Some(kernel) => format!("{} or one before it", kernel.entry),
                    None => "none".into(),
                },
                fault,
            }),
        }
    }
}

/// Whether the numbers of a launch are within what every GPU takes.
fn check_launch(kernel: Kernel, launch: Launch, entry: &Entry, arguments: &[u8]) -> Result<()> {
    let Launch {
        grid,
        block,
        shared,
        work: _,
    } = launch;
    let [x, y, z] = grid;
    let complaint = if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65_535 || z > 65_535
    {
        format!("a grid of {x} × {y} × {z} blocks")
    } else if block == 0 || block > 1024 || block as usize > entry.threads as usize {
        format!("{block} threads a block, declared for {}", entry.threads)
    } else if shared > SHARED_LIMIT {
        format!("{shared} bytes of dynamic shared memory, more than {SHARED_LIMIT}")
    } else if arguments.len() != entry.argument_bytes {
        format!(
            "arguments of {} bytes for a struct of {}",
            arguments.len(),
            entry.argument_bytes
        )
    } else {
        return Ok(());
    };
    error(format!("{} was launched with {complaint}", kernel.entry))
}

impl Device for Emulated {
    fn describe(&self) -> String {
        format!(
            "emulated on the processor, {} threads, order {}",
            self.workers, self.seed
        )
    }

    fn low_type(&self) -> DType {
        DType::BF16
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.state().memory.allocate(bytes)
    }

    fn free(&self, at: Address, bytes: usize) {
        self.state().memory.free(at, bytes);
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.state()
            .memory
            .bytes_mut(to, from.len())?
            .copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        let mut state = self.state();
        state.waits += 1;
        state.check()?;
        to.copy_from_slice(state.memory.bytes(from, to.len())?);
        Ok(())
    }

    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64> {
        let mut state = self.state();
        state.check()?;
        let mut all = Vec::new();
        for &(at, bytes) in parts {
            all.extend_from_slice(state.memory.bytes(at, bytes)?);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.fetched.insert(ticket, all);
        Ok(ticket)
    }

    fn collect(&self, ticket: u64) -> Result<Vec<u8>> {
        match self.state().fetched.remove(&ticket) {
            Some(bytes) => Ok(bytes),
            None => error(format!("nothing was fetched as {ticket}")),
        }
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.state().memory.bytes_mut(at, bytes)?.fill(0);
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.state().memory.copy(from, to, bytes)
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()> {
        let library = library::load(self.module(kernel)?)?;
        let entry = library.entry(kernel.entry)?;
        check_launch(kernel, launch, entry, arguments)?;

        let mut guard = self.state();
        let state = &mut *guard;
        let touched = state.memory.named_in(arguments);
        let zones = if self.watch {
            state.memory.zones(&touched)
        } else {
            Vec::new()
        };
        let threads =
            launch.grid.iter().map(|&n| u64::from(n)).product::<u64>() * u64::from(launch.block);
        let blocks = threads / u64::from(launch.block);
        let workers = (self.workers as u64)
            .min(blocks)
            .min(threads.div_ceil(WORTH_A_WORKER)) as usize;
        while state.workers.len() < workers {
            state.workers.push(Worker::new()?);
        }
        state.launches += 1;
        state.last = Some(kernel);
        let job = library::Job {
            entry,
            arguments: library::aligned(arguments),
            launch,
            seed: self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state.launches,
            next: AtomicU64::new(0),
            stopped: AtomicU32::new(0),
            watched: &zones,
        };
        let fault = library.run(&job, &mut state.workers[..workers]);
        let damage = state.memory.damage_after(&touched);
        let fault = match (fault, damage) {
            (None, None) => return Ok(()),
            (Some(fault), None) => fault.describe(launch.block, None),
            (Some(fault), Some(damage)) => fault.describe(launch.block, Some(&damage)),
            (None, Some(damage)) => {
                format!("{damage} (CLIP_DISTILL_EMULATOR_WATCH=1 finds the thread)")
            }
        };
        Err(Error::Fault {
            kernel: kernel.entry.to_owned(),
            fault,
        })
    }

    fn takes(&self, kernel: Kernel) -> Result<Option<String>> {
        let library = library::load(self.module(kernel)?)?;
        Ok(Some(library.entry(kernel.entry)?.takes()))
    }

    fn product(&self, product: &Product) -> Result<()> {
        product::product(&mut self.state().memory, product, self.workers)
    }

    fn synchronise(&self) -> Result<()> {
        let mut state = self.state();
        state.waits += 1;
        state.check()
    }

    fn waits(&self) -> u64 {
        self.state().waits
    }
}

impl Replay for Emulated {
    fn capture(&self, calls: &[Call]) -> Result<u64> {
        let mut state = self.state();
        state.captured += 1;
        let piece = state.captured;
        state.pieces.insert(piece, calls.into());
        Ok(piece)
    }

    fn replay(&self, piece: u64) -> Result<()> {
        let calls = self.state().pieces.get(&piece).cloned();
        match calls {
            Some(calls) => calls.iter().try_for_each(|call| call.run(self)),
            None => error(format!("nothing was captured as {piece}")),
        }
    }

    fn discard(&self, piece: u64) {
        self.state().pieces.remove(&piece);
    }
}

impl Fault {
    /// What happened and where, with what the zones around buffers show.
    fn describe(&self, threads: u32, damage: Option<&str>) -> String {
        let [x, y, z] = self.block;
        let place = match u32::try_from(self.thread) {
            Ok(thread) if thread < threads => {
                format!(
                    "block ({x}, {y}, {z}), warp {}, thread {thread}",
                    thread / 32
                )
            }
            _ => format!("block ({x}, {y}, {z})"),
        };
        match damage {
            None => format!("{place}: {}", self.text()),
            Some(damage) => format!("{place}: {}: {damage}", self.text()),
        }
    }
}
