//! Kernels on a GPU: modules compiled and loaded at their first use, and what a launch needs to know of a function.

use super::NAME;
use super::answer::check;
use super::api;
use super::compile::{Image, image};
use super::device::Kernel;
use super::modules;
use super::nvrtc::Nvrtc;
use crate::backend::{Result, device_error};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::CString;
use std::ptr;

/// Dynamic shared memory that a kernel has without asking, in bytes.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// The modules of one context, and their functions.
pub(super) struct Kernels {
    nvrtc: Nvrtc,
    /// What modules are compiled for, such as `sm_80`.
    architecture: String,
    modules: HashMap<&'static str, (sys::CUmodule, Image)>,
    functions: HashMap<Kernel, Function>,
}

// SAFETY: handles of the driver, which belong to no thread.
unsafe impl Send for Kernels {}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub handle: sys::CUfunction,
    /// Size of its arguments in bytes.
    pub arguments: usize,
    /// Dynamic shared memory that it may have so far, in bytes.
    shared: u32,
}

impl Kernels {
    pub fn new(nvrtc: Nvrtc, architecture: String) -> Self {
        Self {
            nvrtc,
            architecture,
            modules: HashMap::new(),
            functions: HashMap::new(),
        }
    }

    /// The kernel, compiled and loaded at its first use, with room for `shared` bytes of dynamic shared memory. The
    /// context must be current.
    pub fn function(&mut self, kernel: Kernel, shared: u32) -> Result<Function> {
        let mut function = match self.functions.get(&kernel) {
            Some(function) => *function,
            None => self.load(kernel)?,
        };
        if shared > function.shared {
            // SAFETY: the function's module stays loaded.
            let set = unsafe {
                api::function_set(
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
        self.functions.insert(kernel, function);
        Ok(function)
    }

    fn load(&mut self, kernel: Kernel) -> Result<Function> {
        if !self.modules.contains_key(kernel.module) {
            let Some(module) = modules::module(kernel.module) else {
                return device_error(NAME, format!("there is no module {}", kernel.module));
            };
            let image = image(&self.nvrtc, module, &self.architecture)?;
            // SAFETY: a whole cubin, which the driver copies.
            let loaded = api::written(ptr::null_mut(), |module| unsafe {
                api::module_load(module, image.cubin.as_ptr().cast())
            });
            let loaded = check(&format!("loading {}.cu", kernel.module), loaded)?;
            self.modules.insert(kernel.module, (loaded, image));
        }
        let found = self.modules.get(kernel.module).and_then(|(module, image)| {
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
        // SAFETY: the module stays loaded until `close`.
        let handle = api::written(ptr::null_mut(), |function| unsafe {
            api::module_function(function, module, name.as_ptr())
        });
        Ok(Function {
            handle: check(kernel.entry, handle)?,
            arguments,
            shared: SHARED_WITHOUT_ASKING,
        })
    }

    /// Unloads all modules; no kernel may be running any more.
    pub fn close(&mut self) {
        self.functions.clear();
        for (_, (module, _)) in self.modules.drain() {
            // SAFETY: loaded once, and nothing runs any more.
            let _ = unsafe { api::module_unload(module) };
        }
    }
}
