//! NVRTC, NVIDIA's run-time compiler: CUDA C++ in, machine code of a GPU out.
//!
//! It needs neither a GPU nor the driver, so that kernels can be compiled on any machine.

use super::NAME;
use super::library;
use crate::backend::{Result, device_error};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

type Program = *mut c_void;
/// `nvrtcResult`, an enumeration that grows: 0 is success.
type Status = c_int;

/// The functions called, with the signatures of NVRTC's manual (`nvrtc.h`, CUDA 12 and 13).
pub(super) struct Nvrtc {
    version: (c_int, c_int),
    architectures: Vec<u32>,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nvrtc({}.{})", self.version.0, self.version.1)
    }
}

/// A compiled module.
#[derive(Debug)]
pub(super) struct Compiled {
    /// An ELF file of the GPU's machine code.
    pub cubin: Vec<u8>,
    /// Warnings, and the assembler's statistics of each kernel.
    pub log: String,
}

/// A program in NVRTC's hands, destroyed at the end of its scope.
struct Guard<'a>(&'a Nvrtc, Program);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: created by the same library and destroyed once.
        unsafe { (self.0.destroy)(&mut self.1) };
    }
}

impl Nvrtc {
    /// Opens the library; `driver` is the CUDA version of the driver that shall load the code, if known.
    ///
    /// # Errors
    /// If it is missing or not NVRTC.
    pub fn open(driver: Option<i32>) -> Result<Self> {
        let at = &library::open(library::NVRTC, driver)?;
        // SAFETY: the types are those of the manual, name by name.
        let (version, count, list): (
            unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
            unsafe extern "C" fn(*mut c_int) -> Status,
            unsafe extern "C" fn(*mut c_int) -> Status,
        ) = unsafe {
            (
                library::function(at, "nvrtcVersion")?,
                library::function(at, "nvrtcGetNumSupportedArchs")?,
                library::function(at, "nvrtcGetSupportedArchs")?,
            )
        };
        // SAFETY: as above.
        let mut nvrtc = unsafe {
            Self {
                version: (0, 0),
                architectures: Vec::new(),
                error_string: library::function(at, "nvrtcGetErrorString")?,
                create: library::function(at, "nvrtcCreateProgram")?,
                compile: library::function(at, "nvrtcCompileProgram")?,
                destroy: library::function(at, "nvrtcDestroyProgram")?,
                log_size: library::function(at, "nvrtcGetProgramLogSize")?,
                log: library::function(at, "nvrtcGetProgramLog")?,
                cubin_size: library::function(at, "nvrtcGetCUBINSize")?,
                cubin: library::function(at, "nvrtcGetCUBIN")?,
            }
        };
        let mut found = (0, 0);
        let mut number = 0;
        // SAFETY: the pointers are valid for writing one number each.
        nvrtc.check(unsafe { version(&mut found.0, &mut found.1) })?;
        // NVRTC opens it by name when it first compiles. The wheel of 13.0 has no run path that leads there.
        at.preload(&format!("libnvrtc-builtins.so.{}.{}", found.0, found.1));
        nvrtc.check(unsafe { count(&mut number) })?;
        let mut architectures = vec![0; usize::try_from(number).unwrap_or(0)];
        // SAFETY: it writes as many numbers as `count` returned.
        nvrtc.check(unsafe { list(architectures.as_mut_ptr()) })?;
        nvrtc.version = found;
        nvrtc.architectures = architectures.into_iter().flat_map(u32::try_from).collect();
        Ok(nvrtc)
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What it compiles for: 80 stands for sm_80.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// Compiles `source`, whose file name `name` the messages show; `headers` are what it may include, by name.
    ///
    /// # Errors
    /// With the compiler's messages.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Compiled> {
        let text = |s: &str| match CString::new(s) {
            Ok(text) => Ok(text),
            Err(_) => device_error(NAME, format!("{name}: a zero byte in its source")),
        };
        let (source, file) = (text(source)?, text(name)?);
        let names = headers
            .iter()
            .map(|(n, _)| text(n))
            .collect::<Result<Vec<_>>>()?;
        let texts = headers
            .iter()
            .map(|(_, t)| text(t))
            .collect::<Result<Vec<_>>>()?;
        let options = options
            .iter()
            .map(|o| text(o))
            .collect::<Result<Vec<_>>>()?;
        let pointers = |v: &[CString]| v.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));
        let mut program = ptr::null_mut();
        // SAFETY: `headers.len()` texts and names; all outlive the program, which `guard` ends.
        self.check(unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                file.as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        })?;
        let guard = Guard(self, program);
        // SAFETY: the program is alive; as many options as passed.
        let status = unsafe { (self.compile)(guard.1, options.len() as c_int, options.as_ptr()) };
        let log = self.bytes(guard.1, self.log_size, self.log)?;
        let log = String::from_utf8_lossy(log.split(|&b| b == 0).next().unwrap_or_default());
        if status != 0 {
            return device_error(
                NAME,
                format!(
                    "{name} does not compile: {}",
                    log.trim().replace('\n', "; ")
                ),
            );
        }
        Ok(Compiled {
            cubin: self.bytes(guard.1, self.cubin_size, self.cubin)?,
            log: log.into_owned(),
        })
    }

    /// One of the program's outputs: its size is asked for, then its bytes.
    fn bytes(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program is alive, and `get` writes as many bytes as `size` returned.
        self.check(unsafe { size(program, &mut length) })?;
        let mut bytes = vec![0u8; length];
        self.check(unsafe { get(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it answers with a constant text for every number.
        let text = unsafe {
            let text = (self.error_string)(status);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        device_error(
            NAME,
            format!("NVRTC: {} ({status})", text.unwrap_or_default()),
        )
    }
}
