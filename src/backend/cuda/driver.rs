//! A real GPU, through CUDA's driver: one stream, memory from the stream's pool, kernels by NVRTC.

use super::NAME;
use super::compile::{Image, architecture, image};
use super::device::{Address, Call, Device, Kernel, Launch, Product, Replay};
use super::graphs::Graphs;
use super::library;
use super::modules;
use super::nvrtc::Nvrtc;
use super::pinned_downloads::PinnedDownloads;
use super::pinned_uploads::PinnedUploads;
use super::product::Products;
use crate::backend::{Result, device_error};
use cudarc::driver::result::{self as cu, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The least driver: kernels compiled by NVRTC 12 need one of CUDA 12.
const LEAST_DRIVER: i32 = 12_000;
/// Dynamic shared memory that a kernel has without asking, in bytes.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;
/// Most bytes of a kernel's arguments (before CUDA 12.1).
const MOST_ARGUMENTS: usize = 4096;

/// What cudarc makes of the driver's answers.
type Answer<T> = std::result::Result<T, DriverError>;

/// A GPU and its stream.
pub(super) struct Driver {
    name: String,
    /// Bytes.
    memory: usize,
    capability: (u32, u32),
    version: i32,
    architecture: String,
    nvrtc: Nvrtc,
    handle: sys::CUdevice,
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
// method makes it so first. What one call leaves to the next is behind mutexes.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

#[derive(Default)]
struct Kernels {
    modules: HashMap<&'static str, (sys::CUmodule, Image)>,
    functions: HashMap<Kernel, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Size of its arguments in bytes.
    arguments: usize,
    /// Dynamic shared memory that it may have so far.
    shared: u32,
}

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
        library::driver()?;
        check("cuInit", cu::init())?;
        let mut version = 0;
        // SAFETY: writes one number.
        let status = unsafe { sys::cuDriverGetVersion(&mut version) };
        check("cuDriverGetVersion", status.result())?;
        if version < LEAST_DRIVER {
            return device_error(
                NAME,
                format!(
                    "NVIDIA's driver is of CUDA {}; install one of CUDA 12 or later (525 or later)",
                    dotted(version)
                ),
            );
        }
        let count = check("cuDeviceGetCount", cu::device::get_count())?;
        let handle = match i32::try_from(ordinal) {
            Ok(ordinal) if ordinal < count => check("cuDeviceGet", cu::device::get(ordinal))?,
            _ => {
                return device_error(
                    NAME,
                    format!(
                        "there is no --device {ordinal}: NVIDIA's driver has {count}, numbered from 0"
                    ),
                );
            }
        };
        // SAFETY: `handle` is a device.
        let attribute = |a| {
            check("cuDeviceGetAttribute", unsafe {
                cu::device::get_attribute(handle, a)
            })
        };
        let number = |a| attribute(a).map(|x| u32::try_from(x).unwrap_or(0));
        let capability = (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = check("cuDeviceGetName", cu::device::get_name(handle))?;
        if bf16 && capability.0 < 8 {
            return device_error(
                NAME,
                format!(
                    "--precision amp_bf16 needs compute capability 8.0; {name} has {}.{}: take fp32",
                    capability.0, capability.1
                ),
            );
        }
        if attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return device_error(
                NAME,
                format!("{name} has no memory pools (cuMemAllocAsync)"),
            );
        }
        let nvrtc = Nvrtc::open(Some(version))?;
        let architecture = architecture(&nvrtc, capability)?;
        let products = Products::open(&name, version)?;
        // SAFETY: `handle` is a device.
        let memory = check("cuDeviceTotalMem", unsafe { cu::device::total_mem(handle) })?;
        // SAFETY: as above; given back on drop.
        let context = check("cuDevicePrimaryCtxRetain", unsafe {
            cu::primary_ctx::retain(handle)
        })?;
        let mut driver = Self {
            name,
            memory,
            capability,
            version,
            architecture,
            nvrtc,
            handle,
            context,
            pool: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            kernels: Mutex::default(),
            uploads: Mutex::default(),
            downloads: Mutex::default(),
            graphs: Mutex::default(),
            waits: AtomicU64::new(0),
            products: Mutex::new(products),
        };
        driver.bind()?;
        driver.stream = check(
            "cuStreamCreate",
            cu::stream::create(cu::stream::StreamKind::NonBlocking),
        )?;
        // SAFETY: `handle` is a device.
        driver.pool = check("cuDeviceGetDefaultMemPool", unsafe {
            cu::device::get_default_mem_pool(handle)
        })?;
        // Freed blocks stay in the pool for the next step instead of going back to the system.
        let mut keep = u64::MAX;
        // SAFETY: this attribute is a 64-bit number.
        check("cuMemPoolSetAttribute", unsafe {
            cu::mem_pool::set_attribute(
                driver.pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut keep).cast(),
            )
        })?;
        Ok(driver)
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives until drop.
        check("cuCtxSetCurrent", unsafe {
            cu::ctx::set_current(self.context)
        })
    }

    /// The kernel, compiled and loaded at its first use, with room for `shared` bytes of dynamic shared memory.
    fn function(&self, kernel: Kernel, shared: u32) -> Result<Function> {
        let kernels = &mut *lock(&self.kernels);
        let mut function = match kernels.functions.get(&kernel) {
            Some(function) => *function,
            None => self.load(&mut kernels.modules, kernel)?,
        };
        if shared > function.shared {
            // SAFETY: the function's module stays loaded.
            let set = unsafe {
                cu::function::set_function_attribute(
                    function.handle,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    i32::try_from(shared).unwrap_or(i32::MAX),
                )
            };
            check(
                &format!("{} with {shared} bytes of shared memory", kernel.entry),
                set,
            )?;
            function.shared = shared;
        }
        kernels.functions.insert(kernel, function);
        Ok(function)
    }

    fn load(
        &self,
        modules: &mut HashMap<&'static str, (sys::CUmodule, Image)>,
        kernel: Kernel,
    ) -> Result<Function> {
        if !modules.contains_key(kernel.module) {
            let Some(module) = modules::module(kernel.module) else {
                return device_error(NAME, format!("there is no module {}", kernel.module));
            };
            let image = image(&self.nvrtc, module, &self.architecture)?;
            // SAFETY: a whole cubin, which the driver copies.
            let loaded = unsafe { cu::module::load_data(image.cubin.as_ptr().cast()) };
            let loaded = check(&format!("loading {}.cu", kernel.module), loaded)?;
            modules.insert(kernel.module, (loaded, image));
        }
        let found = modules.get(kernel.module).and_then(|(module, image)| {
            let entry = image.entries.iter().find(|e| e.name == kernel.entry)?;
            Some((*module, entry.arguments, CString::new(kernel.entry).ok()?))
        });
        let Some((module, arguments, name)) = found else {
            return device_error(
                NAME,
                format!(
                    "{}.cu has no kernel {} for {}",
                    kernel.module, kernel.entry, self.architecture
                ),
            );
        };
        // SAFETY: the module stays loaded until drop.
        let handle = unsafe { cu::module::get_function(module, name) };
        Ok(Function {
            handle: check(kernel.entry, handle)?,
            arguments,
            shared: SHARED_WITHOUT_ASKING,
        })
    }

    /// What the pool holds: in use, and in all.
    fn held(&self) -> (u64, u64) {
        let read = |attribute| {
            let mut bytes = 0u64;
            // SAFETY: these attributes are 64-bit numbers. One that cannot be read stays 0.
            let _ = unsafe {
                cu::mem_pool::get_attribute(self.pool, attribute, (&raw mut bytes).cast())
            };
            bytes
        };
        (
            read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT),
            read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT),
        )
    }

    fn out_of_memory<T>(&self, bytes: usize) -> Result<T> {
        let (used, _) = self.held();
        let (free, total) = cu::mem_get_info().unwrap_or((0, self.memory));
        device_error(
            NAME,
            format!(
                "out of memory on {}: asked for {}, while this run holds {} and {} of {} is free; take a smaller \
                 --batch-size (with --accum-freq to see as many pairs), --grad-checkpointing, or --precision \
                 amp_bf16",
                self.name,
                size(bytes as u64),
                size(used),
                size(free as u64),
                size(total as u64)
            ),
        )
    }
}

impl Device for Driver {
    fn describe(&self) -> String {
        format!(
            "{}, {}, compute capability {}.{}, driver of CUDA {}",
            self.name,
            size(self.memory as u64),
            self.capability.0,
            self.capability.1,
            dotted(self.version)
        )
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.bind()?;
        // SAFETY: the stream lives until drop; everything that uses the memory is on it.
        let attempt = || unsafe { cu::malloc_async(self.stream, bytes.max(1)) };
        let full =
            |r: &Answer<Address>| matches!(r, Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)));
        let mut got = attempt();
        if full(&got) {
            // Blocks of other sizes lie idle in the pool: give them back, and ask once more.
            self.synchronise()?;
            // SAFETY: the device's own pool.
            check("cuMemPoolTrimTo", unsafe {
                cu::mem_pool::trim_to(self.pool, 0)
            })?;
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
            let _ = unsafe { cu::free_async(at, self.stream) };
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
        // SAFETY: `to` lives until the copy is there, which is waited for.
        check("download", unsafe {
            cu::memcpy_dtoh_async(to, from, self.stream)
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
        check("clear", unsafe {
            cu::memset_d8_async(at, 0, bytes, self.stream)
        })
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as in `clear`.
        check("copy", unsafe {
            cu::memcpy_dtod_async(to, from, bytes, self.stream)
        })
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel, launch.shared)?;
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
            cu::launch_kernel(
                function.handle,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared,
                self.stream,
                &mut parameters,
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
            cu::stream::synchronize(self.stream)
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
        // What fails here has failed before. The context goes last: all else lies in it.
        let _ = self.synchronise();
        lock(&self.uploads).close();
        lock(&self.downloads).close();
        lock(&self.graphs).close();
        lock(&self.products).close(self.stream);
        let _ = self.synchronise();
        for (module, _) in lock(&self.kernels).modules.values() {
            // SAFETY: loaded once, and nothing runs any more.
            let _ = unsafe { cu::module::unload(*module) };
        }
        if !self.stream.is_null() {
            // SAFETY: created by `open`.
            let _ = unsafe { cu::stream::destroy(self.stream) };
        }
        // SAFETY: retained by `open`.
        let _ = unsafe { cu::primary_ctx::release(self.handle) };
    }
}

/// The guarded value: a thread that panicked in between left nothing half done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver's answer, or an error that says at what it came up.
pub(super) fn check<T>(what: &str, result: Answer<T>) -> Result<T> {
    result.or_else(|e| {
        let text = e.error_string().map(|s| s.to_string_lossy().into_owned());
        let hint = match e.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => {
                ": there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it"
            }
            CUresult::CUDA_ERROR_STUB_LIBRARY => {
                ": the loader found the toolkit's stub of libcuda.so; take lib64/stubs out of LD_LIBRARY_PATH"
            }
            _ => "",
        };
        device_error(
            NAME,
            format!("{what}: {} ({:?}){hint}", text.unwrap_or_default(), e.0),
        )
    })
}

/// CUDA's version number 12080 as 12.8.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=0x3fff_ffff => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
        _ => format!("{:.1} GiB", bytes as f64 / (1 << 30) as f64),
    }
}
