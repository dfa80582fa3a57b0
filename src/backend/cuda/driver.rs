//! A real GPU, through CUDA's driver: one stream, memory from the stream's pool, kernels by NVRTC.

use super::NAME;
use super::answer::{Answer, Failure, OUT_OF_MEMORY, check};
use super::api;
use super::compile::architecture;
use super::device::{Address, Call, Device, Kernel, Launch, Product, Replay};
use super::graphs::Graphs;
use super::kernels::Kernels;
use super::nvrtc::Nvrtc;
use super::pinned_downloads::PinnedDownloads;
use super::pinned_uploads::PinnedUploads;
use super::product::Products;
use super::properties::{Properties, dotted, initialise};
use crate::backend::{Result, device_error};
use crate::tensor::DType;
use cudarc::driver::sys::{self, CUmemPool_attribute};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes of a kernel's arguments (before CUDA 12.1).
const MOST_ARGUMENTS: usize = 4096;

/// A GPU and its stream.
pub(super) struct Driver {
    gpu: Properties,
    /// The driver's CUDA version, as 12080.
    version: i32,
    context: sys::CUcontext,
    pool: sys::CUmemoryPool,
    stream: sys::CUstream,
    kernels: Mutex<Kernels>,
    uploads: Mutex<PinnedUploads>,
    downloads: Mutex<PinnedDownloads>,
    graphs: Mutex<Graphs>,
    waits: AtomicU64,
    products: Mutex<Products>,
}

// SAFETY: the driver's handles may be used from any thread on which their context is current, and every
// method makes it so first. What one call leaves to the next is guarded by mutexes.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.describe())
    }
}

impl Driver {
    /// Opens GPU `ordinal` for work in f32, or in bf16 as well.
    ///
    /// # Errors
    /// If driver, GPU or NVRTC is missing, or the GPU is too old.
    pub fn open(ordinal: usize, bf16: bool) -> Result<Self> {
        let version = initialise()?;
        let gpu = Properties::of(ordinal)?;
        if bf16 {
            gpu.bf16()?;
        }
        gpu.fp32()?;
        let nvrtc = Nvrtc::open(Some(version))?;
        let architecture = architecture(&nvrtc, gpu.capability)?;
        let products = Products::open(&gpu.name, version)?;
        // SAFETY: the handle is a device; given back on drop.
        let context = api::written(ptr::null_mut(), |context| unsafe {
            api::context_retain(context, gpu.handle)
        });
        let context = check("cuDevicePrimaryCtxRetain", context)?;
        let mut driver = Self {
            gpu,
            version,
            context,
            pool: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            kernels: Mutex::new(Kernels::new(nvrtc, architecture)),
            uploads: Mutex::default(),
            downloads: Mutex::default(),
            graphs: Mutex::default(),
            waits: AtomicU64::new(0),
            products: Mutex::new(products),
        };
        driver.bind()?;
        let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; writes one handle.
        let stream = api::written(ptr::null_mut(), |stream| unsafe {
            api::stream_create(stream, apart)
        });
        driver.stream = check("cuStreamCreate", stream)?;
        // SAFETY: the handle is a device; writes one handle.
        let pool = api::written(ptr::null_mut(), |pool| unsafe {
            api::device_pool(pool, driver.gpu.handle)
        });
        driver.pool = check("cuDeviceGetDefaultMemPool", pool)?;
        // Freed blocks stay in the pool for the next step instead of going back to the system.
        let mut keep = u64::MAX;
        // SAFETY: this attribute is a 64-bit number.
        check("cuMemPoolSetAttribute", unsafe {
            api::pool_set(
                driver.pool,
                CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut keep).cast(),
            )
        })?;
        Ok(driver)
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives until drop.
        check("cuCtxSetCurrent", unsafe { api::context_set(self.context) })
    }

    fn out_of_memory<T>(&self, bytes: usize) -> Result<T> {
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        // SAFETY: this attribute is a 64-bit number; `memory_info` writes two.
        let (used, free) = unsafe {
            let used = api::written(0u64, |used| {
                api::pool_get(self.pool, attribute, used.cast())
            });
            let mut total = 0;
            let free = api::written(0, |free| api::memory_info(free, &mut total));
            (used.unwrap_or(0), free.unwrap_or(0))
        };
        device_error(
            NAME,
            format!(
                "out of memory on {}: asked for {}, while this run holds {} and {} of {} is free; take a smaller \
                 --batch-size (with --accum-freq to see as many pairs), --grad-checkpointing, or --precision \
                 amp_bf16",
                self.gpu.name,
                size(bytes as u64),
                size(used),
                size(free as u64),
                size(self.gpu.memory as u64)
            ),
        )
    }
}

impl Device for Driver {
    fn describe(&self) -> String {
        format!(
            "{}, {}, compute capability {}.{}, driver of CUDA {}",
            self.gpu.name,
            size(self.gpu.memory as u64),
            self.gpu.capability.0,
            self.gpu.capability.1,
            dotted(self.version)
        )
    }

    fn low_type(&self) -> DType {
        DType::BF16
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.bind()?;
        // SAFETY: the stream lives until drop; everything that uses the memory is on it.
        let attempt = || {
            api::written(0, |at| unsafe {
                api::memory_allocate(at, bytes.max(1), self.stream)
            })
        };
        let full = |answer: &Answer<Address>| {
            matches!(
                answer,
                Err(Failure {
                    code: OUT_OF_MEMORY,
                    ..
                })
            )
        };
        let mut got = attempt();
        if full(&got) {
            // Free blocks of other sizes are still in the pool: give them back, and ask once more.
            self.synchronise()?;
            // SAFETY: the device's own pool.
            check("cuMemPoolTrimTo", unsafe { api::pool_trim(self.pool, 0) })?;
            got = attempt();
        }
        if full(&got) {
            return self.out_of_memory(bytes);
        }
        check("cuMemAllocAsync", got)
    }

    fn free(&self, at: Address, _bytes: usize) {
        // A failure here is an earlier kernel's, which the next call that can fail reports.
        if self.bind().is_ok() {
            // SAFETY: handed out by `allocate` and given back once, after its last use on the stream.
            let _ = unsafe { api::memory_free(at, self.stream) };
        }
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.bind()?;
        lock(&self.uploads).upload(to, from, self.stream)
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        if to.is_empty() {
            return self.synchronise();
        }
        // SAFETY: `to` lives until the copy is done, which is waited for.
        check("download", unsafe {
            api::download(to.as_mut_ptr().cast(), from, to.len(), self.stream)
        })?;
        self.synchronise()
    }

    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64> {
        self.bind()?;
        lock(&self.downloads).fetch(parts, self.stream)
    }

    fn collect(&self, ticket: u64) -> Result<Vec<u8>> {
        self.bind()?;
        lock(&self.downloads).collect(ticket)
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller owns these bytes; in the order of the stream.
        check("clear", unsafe { api::fill(at, 0, bytes, self.stream) })
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as in `clear`.
        check("copy", unsafe { api::copy(to, from, bytes, self.stream) })
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()> {
        self.bind()?;
        let function = lock(&self.kernels).function(kernel, launch.shared)?;
        if arguments.len() != function.arguments || arguments.len() > MOST_ARGUMENTS {
            return device_error(
                NAME,
                format!(
                    "{} takes {} bytes of arguments, not {}",
                    kernel.entry,
                    function.arguments,
                    arguments.len()
                ),
            );
        }
        // Aligned as any C struct may ask for.
        let mut aligned = vec![0u128; arguments.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut aligned)[..arguments.len()].copy_from_slice(arguments);
        let mut parameters = [aligned.as_mut_ptr().cast::<c_void>()];
        let [x, y, z] = launch.grid;
        // SAFETY: one argument of the size that the kernel takes, which the call copies; what its addresses
        // point to is the caller's.
        let launched = unsafe {
            api::launch(
                function.handle,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                launch.shared,
                self.stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(kernel.entry, launched)
    }

    fn product(&self, product: &Product) -> Result<()> {
        self.bind()?;
        lock(&self.products).run(product, self, self.stream)
    }

    fn synchronise(&self) -> Result<()> {
        self.bind()?;
        self.waits.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the stream lives until drop.
        check("waiting for the GPU", unsafe {
            api::stream_synchronize(self.stream)
        })
    }

    fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}

impl Replay for Driver {
    fn capture(&self, calls: &[Call]) -> Result<u64> {
        self.bind()?;
        let all = || calls.iter().try_for_each(|call| call.run(self));
        lock(&self.graphs).capture(self.stream, all)
    }

    fn replay(&self, piece: u64) -> Result<()> {
        self.bind()?;
        lock(&self.graphs).launch(piece, self.stream)
    }

    fn discard(&self, piece: u64) {
        if self.bind().is_ok() {
            lock(&self.graphs).discard(piece);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What fails here has failed before. The context goes last: all else belongs to it.
        let _ = self.synchronise();
        lock(&self.uploads).close();
        lock(&self.downloads).close();
        lock(&self.graphs).close();
        lock(&self.products).close(self.stream);
        let _ = self.synchronise();
        lock(&self.kernels).close();
        if !self.stream.is_null() {
            // SAFETY: created by `open`.
            let _ = unsafe { api::stream_destroy(self.stream) };
        }
        // SAFETY: retained by `open`.
        let _ = unsafe { api::context_release(self.gpu.handle) };
    }
}

/// The guarded value: a thread that panicked while holding it leaves nothing half done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=0x3fff_ffff => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
        _ => format!("{:.1} GiB", bytes as f64 / (1 << 30) as f64),
    }
}
