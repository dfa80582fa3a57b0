//! The GPUs that the driver has, without opening one: names, sizes, and what keeps one from being used.

use super::NAME;
use super::answer::check;
use super::api;
use crate::backend::{Result, device_error};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use std::ffi::CStr;
use std::ptr;

/// The least driver: kernels compiled by NVRTC 12 need one of CUDA 12.
const LEAST_DRIVER: i32 = 12_000;

/// Initialises the driver and returns its CUDA version, as 12080.
///
/// # Errors
/// If there is none, it has no GPU, or it is too old.
pub(super) fn initialise() -> Result<i32> {
    api::load()?;
    // SAFETY: takes flags, of which there are none.
    check("cuInit", unsafe { api::init(0) })?;
    // SAFETY: writes one number.
    let version = api::written(0, |version| unsafe { api::driver_version(version) });
    let version = check("cuDriverGetVersion", version)?;
    if version < LEAST_DRIVER {
        return device_error(
            NAME,
            format!(
                "NVIDIA's driver is of CUDA {}; install one of CUDA 12 or later (525 or later)",
                dotted(version)
            ),
        );
    }
    Ok(version)
}

/// How many GPUs there are; the driver is initialised.
pub(super) fn count() -> Result<usize> {
    // SAFETY: writes one number.
    let count = api::written(0, |count| unsafe { api::device_count(count) });
    Ok(usize::try_from(check("cuDeviceGetCount", count)?).unwrap_or(0))
}

/// One GPU.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    pub handle: sys::CUdevice,
    pub name: String,
    /// Bytes.
    pub memory: usize,
    /// Compute capability.
    pub capability: (u32, u32),
    pools: bool,
}

impl Properties {
    /// Those of GPU `ordinal`; the driver is initialised.
    ///
    /// # Errors
    /// If there is no such GPU.
    pub fn of(ordinal: usize) -> Result<Self> {
        let count = count()?;
        let number = match i32::try_from(ordinal) {
            Ok(number) if ordinal < count => number,
            _ => {
                return device_error(
                    NAME,
                    format!(
                        "there is no --device {ordinal}: NVIDIA's driver has {count}, numbered from 0"
                    ),
                );
            }
        };
        // SAFETY: writes one handle.
        let handle = api::written(0, |device| unsafe { api::device(device, number) });
        let handle = check("cuDeviceGet", handle)?;
        let attribute = |attribute| {
            // SAFETY: `handle` is a device; writes one number.
            let value = api::written(0, |value| unsafe {
                api::device_attribute(value, attribute, handle)
            });
            check("cuDeviceGetAttribute", value)
        };
        let number = |a| attribute(a).map(|x| u32::try_from(x).unwrap_or(0));
        // SAFETY: as above.
        let memory = api::written(0, |bytes| unsafe { api::device_memory(bytes, handle) });
        Ok(Self {
            handle,
            name: name(handle)?,
            memory: check("cuDeviceTotalMem", memory)?,
            capability: (
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            pools: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
        })
    }

    /// What keeps the GPU from work in f32.
    ///
    /// # Errors
    /// The reason.
    pub fn fp32(&self) -> Result<()> {
        match self.pools {
            true => Ok(()),
            false => device_error(
                NAME,
                format!("{} has no memory pools (cuMemAllocAsync)", self.name),
            ),
        }
    }

    /// What keeps the GPU from mixed precision, apart from [`Properties::fp32`].
    ///
    /// # Errors
    /// The reason.
    pub fn bf16(&self) -> Result<()> {
        let (major, minor) = self.capability;
        match major >= 8 {
            true => Ok(()),
            false => device_error(
                NAME,
                format!(
                    "--precision amp_bf16 needs compute capability 8.0; {} has {major}.{minor}: take fp32",
                    self.name
                ),
            ),
        }
    }

    /// Bytes that are free, for which the driver must make the GPU's context: half a gigabyte for a moment.
    ///
    /// # Errors
    /// If it cannot, as on a GPU that another process has for itself.
    pub fn free(&self) -> Result<usize> {
        // SAFETY: `handle` is a device; released below.
        let context = api::written(ptr::null_mut(), |context| unsafe {
            api::context_retain(context, self.handle)
        });
        let context = check("cuDevicePrimaryCtxRetain", context)?;
        // SAFETY: the context was retained above; every user of a context makes its own current before a call.
        let free = unsafe {
            api::context_set(context).and_then(|()| {
                let mut total = 0;
                api::written(0, |free| api::memory_info(free, &mut total))
            })
        };
        // SAFETY: as above.
        unsafe {
            let _ = api::context_set(ptr::null_mut());
            let _ = api::context_release(self.handle);
        }
        check("cuMemGetInfo", free)
    }
}

fn name(handle: sys::CUdevice) -> Result<String> {
    let mut text = [0u8; 256];
    // SAFETY: `handle` is a device; writes at most as many bytes, the last one zero.
    let named = unsafe { api::device_name(text.as_mut_ptr().cast(), text.len() as i32, handle) };
    check("cuDeviceGetName", named)?;
    let name = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// CUDA's version number 12080 as 12.8.
pub(super) fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
