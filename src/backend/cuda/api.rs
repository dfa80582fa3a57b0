//! NVIDIA's driver: its functions, each found at run time and called through a pointer that returns a number.
//!
//! A driver newer than this program answers with codes that no enumeration of ours lists, and a Rust enum of an
//! unlisted value is undefined behaviour. So the functions are declared here to return the C integer that they
//! do return; cudarc lends their types, and the compiler compares every signature with cudarc's.

use super::answer::{Answer, Failure, NOT_INITIALIZED, SUCCESS, check};
use super::library;
use crate::backend::Result;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUevent_flags, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphExec, CUmemPool_attribute, CUmemoryPool, CUmodule,
    CUstream, CUstreamCaptureMode,
};
use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::ptr;
use std::sync::OnceLock;

/// Declares the driver's functions: our name, the driver's, parameters.
macro_rules! functions {
    ($($name:ident = $symbol:ident($($argument:ident: $type:ty),* $(,)?);)*) => {
        #[derive(Clone, Copy)]
        struct Table {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Table {
            /// # Errors
            /// If the driver lacks a function, naming it.
            fn load() -> Result<Self> {
                let driver = library::driver()?;
                // SAFETY: the types are cudarc's (below), but for the integer that C returns.
                unsafe {
                    Ok(Self {
                        $($name: library::driver_function(driver, stringify!($symbol))?,)*
                    })
                }
            }
        }

        // The same parameters as cudarc's, or this does not compile.
        $(const _: unsafe fn($($type),*) -> cudarc::driver::sys::CUresult =
            cudarc::driver::sys::$symbol;)*

        $(
            #[doc = concat!("The driver's `", stringify!($symbol), "`.")]
            ///
            /// # Safety
            /// As its manual asks: handles alive, pointers valid for what it reads and writes.
            #[allow(clippy::too_many_arguments)] // as many as the driver takes
            pub(super) unsafe fn $name($($argument: $type),*) -> Answer<()> {
                let call = stringify!($symbol);
                let Some(table) = TABLE.get() else {
                    return Err(Failure { call, code: NOT_INITIALIZED });
                };
                // SAFETY: the caller's; the driver is never unloaded.
                match unsafe { (table.$name)($($argument),*) } {
                    SUCCESS => Ok(()),
                    code => Err(Failure { call, code }),
                }
            }
        )*
    };
}

// All are in every driver of CUDA 12 and 13.
functions! {
    init = cuInit(flags: c_uint);
    driver_version = cuDriverGetVersion(version: *mut c_int);
    device = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    device_count = cuDeviceGetCount(count: *mut c_int);
    device_name = cuDeviceGetName(name: *mut c_char, bytes: c_int, device: CUdevice);
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    device_attribute =
        cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    device_pool = cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice);
    context_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    context_release = cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    context_set = cuCtxSetCurrent(context: CUcontext);
    stream_create = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    stream_destroy = cuStreamDestroy_v2(stream: CUstream);
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    pool_set =
        cuMemPoolSetAttribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void);
    pool_get =
        cuMemPoolGetAttribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void);
    pool_trim = cuMemPoolTrimTo(pool: CUmemoryPool, keep: usize);
    memory_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    memory_allocate = cuMemAllocAsync(at: *mut CUdeviceptr, bytes: usize, stream: CUstream);
    memory_free = cuMemFreeAsync(at: CUdeviceptr, stream: CUstream);
    pinned_allocate = cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, flags: c_uint);
    pinned_free = cuMemFreeHost(at: *mut c_void);
    upload =
        cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    download =
        cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    copy =
        cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    fill = cuMemsetD8Async(at: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream);
    module_load = cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    module_function =
        cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    module_unload = cuModuleUnload(module: CUmodule);
    function_set =
        cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    launch = cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: CUstream,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    );
    event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    event_query = cuEventQuery(event: CUevent);
    event_synchronize = cuEventSynchronize(event: CUevent);
    event_elapsed = cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
    event_destroy = cuEventDestroy_v2(event: CUevent);
    capture_begin = cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    capture_end = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    graph_instantiate =
        cuGraphInstantiateWithFlags(made: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    graph_upload = cuGraphUpload(graph: CUgraphExec, stream: CUstream);
    graph_launch = cuGraphLaunch(graph: CUgraphExec, stream: CUstream);
    graph_destroy = cuGraphDestroy(graph: CUgraph);
    executable_destroy = cuGraphExecDestroy(graph: CUgraphExec);
}

/// The functions, once [`load`] has found them all.
static TABLE: OnceLock<Table> = OnceLock::new();

/// Finds the driver, before which every function here answers that it is not initialised.
///
/// # Errors
/// If there is no driver, or one older than CUDA 12.
pub(super) fn load() -> Result<()> {
    if TABLE.get().is_none() {
        let table = Table::load()?;
        // Another thread found the same ones.
        let _ = TABLE.set(table);
    }
    Ok(())
}

/// What a call writes to the place it is given, `start` until then.
pub(super) fn written<T>(start: T, call: impl FnOnce(*mut T) -> Answer<()>) -> Answer<T> {
    let mut value = start;
    call(&mut value).map(|()| value)
}

/// A new event of the current context.
///
/// # Errors
/// What the driver says.
pub(super) fn event(flags: CUevent_flags) -> Result<CUevent> {
    // SAFETY: writes one handle.
    let event = written(ptr::null_mut(), |event| unsafe {
        event_create(event, flags as c_uint)
    });
    check("cuEventCreate", event)
}
