//! cuBLASLt's functions, found at run time, and its descriptors.

use super::NAME;
use super::library;
use crate::backend::{Result, device_error};
use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUstream;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// A handle or a descriptor.
pub(super) type Raw = *mut c_void;
/// `cublasStatus_t`: 0 is success.
pub(super) type Status = c_int;

type Create = unsafe extern "C" fn(*mut Raw) -> Status;
type Destroy = unsafe extern "C" fn(Raw) -> Status;
type Set = unsafe extern "C" fn(Raw, u32, *const c_void, usize) -> Status;

/// `cublasLtMatmulAlgo_t`: one way to run a product, opaque.
pub(super) type Algorithm = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`, with its status as a number.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    pub algorithm: Algorithm,
    workspace: usize,
    pub state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(
    size_of::<Candidate>() == size_of::<sys::cublasLtMatmulHeuristicResult_t>()
        && size_of::<Algorithm>() == size_of::<sys::cublasLtMatmulAlgo_t>()
);

/// The functions called, with the signatures of cuBLAS' manual (the same in CUDA 12 and 13).
#[derive(Clone, Copy)]
pub(super) struct CublasLt {
    version: unsafe extern "C" fn() -> usize,
    status_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: Create,
    destroy: Destroy,
    product_create: unsafe extern "C" fn(*mut Raw, u32, u32) -> Status,
    product_set: Set,
    product_destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Raw, u32, u64, u64, i64) -> Status,
    layout_destroy: Destroy,
    preference_create: Create,
    preference_set: Set,
    preference_destroy: Destroy,
    heuristic: unsafe extern "C" fn(
        Raw,
        Raw,
        Raw,
        Raw,
        Raw,
        Raw,
        Raw,
        c_int,
        *mut Candidate,
        *mut c_int,
    ) -> Status,
    matmul: unsafe extern "C" fn(
        Raw,
        Raw,
        *const c_void,
        *const c_void,
        Raw,
        *const c_void,
        Raw,
        *const c_void,
        *const c_void,
        Raw,
        *mut c_void,
        Raw,
        *const Algorithm,
        *mut c_void,
        usize,
        CUstream,
    ) -> Status,
}

/// A descriptor, destroyed with its owner.
pub(super) struct Owned {
    raw: Raw,
    destroy: Destroy,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the library of `destroy`, and destroyed once.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// What a product consists of: its description, and the layouts of A, B, C and D.
pub(super) struct Parts {
    pub product: Owned,
    pub layouts: [Owned; 4],
}

/// A product's operands: addresses of A, B, C and D, and the factor of C.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub at: [u64; 4],
    pub beta: f32,
}

/// Memory that algorithms may use.
#[derive(Clone, Copy)]
pub(super) struct Workspace {
    pub at: u64,
    pub bytes: usize,
}

impl CublasLt {
    /// Opens the library for a driver of that CUDA version.
    ///
    /// # Errors
    /// If it is missing or not cuBLASLt.
    pub fn open(driver: i32) -> Result<Self> {
        let at = &library::open(library::CUBLASLT, Some(driver))?;
        // SAFETY: the types are those of the manual, name by name.
        unsafe {
            Ok(Self {
                version: library::function(at, "cublasLtGetVersion")?,
                status_string: library::function(at, "cublasLtGetStatusString")?,
                create: library::function(at, "cublasLtCreate")?,
                destroy: library::function(at, "cublasLtDestroy")?,
                product_create: library::function(at, "cublasLtMatmulDescCreate")?,
                product_set: library::function(at, "cublasLtMatmulDescSetAttribute")?,
                product_destroy: library::function(at, "cublasLtMatmulDescDestroy")?,
                layout_create: library::function(at, "cublasLtMatrixLayoutCreate")?,
                layout_destroy: library::function(at, "cublasLtMatrixLayoutDestroy")?,
                preference_create: library::function(at, "cublasLtMatmulPreferenceCreate")?,
                preference_set: library::function(at, "cublasLtMatmulPreferenceSetAttribute")?,
                preference_destroy: library::function(at, "cublasLtMatmulPreferenceDestroy")?,
                heuristic: library::function(at, "cublasLtMatmulAlgoGetHeuristic")?,
                matmul: library::function(at, "cublasLtMatmul")?,
            })
        }
    }

    /// The library's version, as 120803.
    pub fn version(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { (self.version)() }
    }

    /// A handle for the current context.
    pub fn handle(&self) -> Result<Owned> {
        self.owned("cublasLtCreate", self.destroy, |raw| {
            // SAFETY: writes one handle.
            unsafe { (self.create)(raw) }
        })
    }

    /// A product accumulated in f32, of nothing but f32 products if the operands are f32: without TF32.
    pub fn product(&self) -> Result<Owned> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F as u32;
        let scale = sys::cudaDataType_t::CUDA_R_32F as u32;
        self.owned("cublasLtMatmulDescCreate", self.product_destroy, |raw| {
            // SAFETY: writes one descriptor.
            unsafe { (self.product_create)(raw, compute, scale) }
        })
    }

    /// Sets one of a product's attributes, of the type that the manual gives for it.
    pub fn set<T: Copy>(
        &self,
        product: &Owned,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: T,
    ) -> Result<()> {
        // SAFETY: reads `size_of::<T>()` bytes; another size than the attribute's is refused.
        let status = unsafe {
            (self.product_set)(
                product.raw,
                attribute as u32,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        };
        self.check("cublasLtMatmulDescSetAttribute", status)
    }

    /// A column-major matrix.
    pub fn layout(
        &self,
        dtype: sys::cudaDataType_t,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Result<Owned> {
        let number = |x: usize| i64::try_from(x).unwrap_or(i64::MAX);
        self.owned("cublasLtMatrixLayoutCreate", self.layout_destroy, |raw| {
            // SAFETY: writes one descriptor.
            unsafe {
                (self.layout_create)(
                    raw,
                    dtype as u32,
                    rows as u64,
                    columns as u64,
                    number(stride),
                )
            }
        })
    }

    /// Ways to run a product, the one that should be fastest first.
    ///
    /// # Errors
    /// If there is none.
    pub fn candidates(
        &self,
        handle: &Owned,
        parts: &Parts,
        workspace: usize,
        alignments: [u32; 4],
        most: usize,
    ) -> Result<Vec<Candidate>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as P;
        let preference = self.owned(
            "cublasLtMatmulPreferenceCreate",
            self.preference_destroy,
            |raw| {
                // SAFETY: writes one descriptor.
                unsafe { (self.preference_create)(raw) }
            },
        )?;
        let set = |attribute: P, value: *const c_void, size| {
            // SAFETY: `value` points to `size` bytes; another size than the attribute's is refused.
            let status =
                unsafe { (self.preference_set)(preference.raw, attribute as u32, value, size) };
            self.check("cublasLtMatmulPreferenceSetAttribute", status)
        };
        set(
            P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const workspace).cast(),
            size_of::<u64>(),
        )?;
        // Where a sum is split among blocks, its parts are added in f32 in the workspace: not in D's bf16.
        let reduction =
            sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(
            P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const reduction).cast(),
            size_of::<u32>(),
        )?;
        let attributes = [
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (attribute, alignment) in attributes.into_iter().zip(&alignments) {
            set(attribute, (&raw const *alignment).cast(), size_of::<u32>())?;
        }
        let mut found = vec![Candidate::default(); most];
        let mut count = 0;
        let [a, b, c, d] = parts.layouts.each_ref().map(|l| l.raw);
        // SAFETY: descriptors alive; writes at most `most` candidates and their number.
        let status = unsafe {
            (self.heuristic)(
                handle.raw,
                parts.product.raw,
                a,
                b,
                c,
                d,
                preference.raw,
                most as c_int,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        self.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        found.retain(|c| c.state == 0);
        match found.is_empty() {
            true => device_error(NAME, "cuBLASLt has no algorithm for it"),
            false => Ok(found),
        }
    }

    /// Puts D = A B + β C on the stream.
    ///
    /// # Safety
    /// The operands' memory must be as the layouts describe it.
    pub unsafe fn run(
        &self,
        handle: &Owned,
        parts: &Parts,
        algorithm: &Algorithm,
        operands: Operands,
        workspace: Workspace,
        stream: CUstream,
    ) -> Result<()> {
        let [a, b, c, d] = operands
            .at
            .map(|at| ptr::without_provenance_mut::<c_void>(at as usize));
        let layouts = parts.layouts.each_ref().map(|l| l.raw);
        let alpha = 1f32;
        // SAFETY: the caller's; the factors are read before the call returns (pointer mode host, the default).
        let status = unsafe {
            (self.matmul)(
                handle.raw,
                parts.product.raw,
                (&raw const alpha).cast(),
                a,
                layouts[0],
                b,
                layouts[1],
                (&raw const operands.beta).cast(),
                c,
                layouts[2],
                d,
                layouts[3],
                algorithm,
                ptr::without_provenance_mut(workspace.at as usize),
                workspace.bytes,
                stream,
            )
        };
        self.check("cublasLtMatmul", status)
    }

    fn owned(
        &self,
        what: &str,
        destroy: Destroy,
        create: impl FnOnce(*mut Raw) -> Status,
    ) -> Result<Owned> {
        let mut raw = ptr::null_mut();
        self.check(what, create(&mut raw))?;
        Ok(Owned { raw, destroy })
    }

    fn check(&self, what: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it answers with a constant text for every number.
        let text = unsafe {
            let text = (self.status_string)(status);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        device_error(
            NAME,
            format!("{what}: {} ({status})", text.unwrap_or_default()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require::{Part, require};

    /// Where the library is (it needs no GPU for this): it takes every description that a product makes.
    #[test]
    fn descriptions_are_what_the_library_takes() {
        use sys::cublasLtMatmulDescAttributes_t as D;
        let found = CublasLt::open(13_000);
        let Some(library) = require(Part::CublasLt, "descriptions of products", found) else {
            return;
        };
        assert!(library.version() >= 120_000, "{}", library.version());
        let product = library.product().unwrap();
        for (attribute, value) in [
            (D::CUBLASLT_MATMUL_DESC_TRANSA, 1u32),
            (D::CUBLASLT_MATMUL_DESC_TRANSB, 0),
            (
                D::CUBLASLT_MATMUL_DESC_EPILOGUE,
                sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32,
            ),
        ] {
            library.set(&product, attribute, value).unwrap();
        }
        let bias = D::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        library.set(&product, bias, 4096u64).unwrap();
        assert!(library.set(&product, bias, 0u16).is_err());
        for dtype in [
            sys::cudaDataType_t::CUDA_R_32F,
            sys::cudaDataType_t::CUDA_R_16BF,
        ] {
            library.layout(dtype, 64, 32, 72).unwrap();
        }
    }
}
