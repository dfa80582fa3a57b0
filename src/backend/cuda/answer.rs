//! What NVIDIA's driver answers, and what is said of it when a call fails.

use super::NAME;
use super::library;
use crate::backend::{Result, device_error};
use std::ffi::{CStr, c_char, c_int};
use std::ptr;

/// `CUDA_SUCCESS`.
pub(super) const SUCCESS: c_int = 0;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_INITIALIZED`.
pub(super) const NOT_INITIALIZED: c_int = 3;
/// `CUDA_ERROR_STUB_LIBRARY`.
const STUB_LIBRARY: c_int = 34;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

/// The result of a call of the driver.
pub(super) type Answer<T> = std::result::Result<T, Failure>;

/// A call that failed: the function, and the driver's code, one of `CUresult` or of a later version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub call: &'static str,
    pub code: c_int,
}

/// The answer, or an error that says what was being done, what the driver says of it, and the code.
pub(super) fn check<T>(what: &str, answer: Answer<T>) -> Result<T> {
    answer.or_else(|Failure { call, code }| {
        let hint = match code {
            NO_DEVICE => ": there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it",
            STUB_LIBRARY => {
                ": the loader found the toolkit's stub of libcuda.so; take lib64/stubs out of LD_LIBRARY_PATH"
            }
            _ => "",
        };
        let meaning = text("cuGetErrorString", code)
            .unwrap_or_else(|| "an error unknown to this driver".into());
        let name = text("cuGetErrorName", code).map_or(String::new(), |name| format!(", {name}"));
        let of = match what == call {
            true => String::new(),
            false => format!(" of {call}"),
        };
        device_error(
            NAME,
            format!("{what}: {meaning} (code {code}{of}{name}){hint}"),
        )
    })
}

/// What the driver's function `name` says of a code, if it knows it.
fn text(name: &str, code: c_int) -> Option<String> {
    type Texts = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
    // SAFETY: cuGetErrorName and cuGetErrorString have this signature.
    let texts: Texts = unsafe { library::driver_function(library::driver().ok()?, name).ok()? };
    let mut text = ptr::null();
    // SAFETY: writes one pointer: to a constant text, or null for a code that it does not know.
    let known = unsafe { texts(code, &mut text) } == SUCCESS && !text.is_null();
    // SAFETY: as above.
    known.then(|| {
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    })
}
