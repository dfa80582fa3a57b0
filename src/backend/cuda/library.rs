//! Finding CUDA's libraries at run time.
//!
//! NVRTC and cuBLASLt are opened here and called through tables of our own: cudarc looks for the names of the
//! one CUDA version that it was built for and panics where a library or a function is missing; we take
//! versions 12 and 13, out of Python's wheels as well, and say what is missing. The driver is called through
//! cudarc, after [`driver`] has made sure of every function.

use super::NAME;
use crate::backend::{Result, device_error};
use cudarc::driver::sys;
use libloading::{Library, Symbol};
use std::path::{Path, PathBuf};

/// Environment variable with the folder of CUDA's libraries.
pub(super) const PATH: &str = "CLIP_DISTILL_CUDA_PATH";

/// A library beside the driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    /// What people call it.
    pub title: &'static str,
    /// File name without `lib` and `.so`.
    pub stem: &'static str,
    /// Its Python package, of CUDA 13; that of CUDA 12 ends in `-cu12`.
    pub package: &'static str,
}

/// NVIDIA's run-time compiler.
pub(super) const NVRTC: Sought = Sought {
    title: "NVRTC",
    stem: "nvrtc",
    package: "nvidia-cuda-nvrtc",
};

/// NVIDIA's matrix products.
pub(super) const CUBLASLT: Sought = Sought {
    title: "cuBLASLt",
    stem: "cublasLt",
    package: "nvidia-cublas",
};

/// The driver functions that this backend calls. All are in every driver of CUDA 12.
const DRIVER_FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDeviceGetDefaultMemPool",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuMemPoolSetAttribute",
    "cuMemPoolGetAttribute",
    "cuMemPoolTrimTo",
    "cuMemGetInfo_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
];

/// Where the driver may lie although the loader does not look there.
const DRIVER_FOLDERS: [&str; 2] = ["/usr/lib/wsl/lib", "/usr/local/cuda/compat"];

/// Makes the driver's functions callable through cudarc.
///
/// # Errors
/// If there is no driver, or one older than CUDA 12.
pub(super) fn driver() -> Result<()> {
    // SAFETY: opens libraries by name; NVIDIA's driver may be loaded into any process.
    let present = || unsafe { sys::is_culib_present() };
    if !present() {
        let folders = DRIVER_FOLDERS.map(PathBuf::from).into_iter();
        for folder in folders.chain(given().iter().flat_map(|p| inside(p))) {
            // SAFETY: as above. Once it is open, the loader finds it by its name as well.
            if let Ok(library) = unsafe { Library::new(folder.join("libcuda.so.1")) } {
                keep(library);
                break;
            }
        }
    }
    if !present() {
        return device_error(
            NAME,
            format!(
                "no NVIDIA driver: there is no libcuda.so.1 in the loader's path, {} or ${PATH}; install \
                 NVIDIA's driver (`nvidia-smi` then lists the GPU), in a container start it with the GPU",
                DRIVER_FOLDERS.join(", ")
            ),
        );
    }
    // SAFETY: the library is there. The symbols are only looked for, not called.
    let missing = DRIVER_FUNCTIONS.iter().find(|name| unsafe {
        sys::culib()
            .get::<unsafe extern "C" fn()>(name.as_bytes())
            .is_err()
    });
    match missing {
        Some(name) => device_error(
            NAME,
            format!(
                "NVIDIA's driver has no {name}; install one of CUDA 12 or later (525 or later)"
            ),
        ),
        None => Ok(()),
    }
}

/// Opens a library: first out of `CLIP_DISTILL_CUDA_PATH`, then where the loader looks, then out of
/// toolkits in /usr/local. With the driver's CUDA version known, those that need a later driver are passed over.
///
/// # Errors
/// If there is none.
pub(super) fn open(sought: Sought, driver: Option<i32>) -> Result<&'static Library> {
    let names = names(sought, driver);
    let mut tried = Vec::new();
    let mut attempt = |path: &Path| {
        // SAFETY: NVIDIA's libraries may be loaded into any process.
        match unsafe { Library::new(path) } {
            Ok(library) => Some(keep(library)),
            Err(e) => {
                // A bare name that is nowhere is no news; a file that does not load is.
                if path.is_absolute() {
                    tried.push(format!("{}: {e}", path.display()));
                }
                None
            }
        }
    };
    let toolkits = toolkits();
    let given = given();
    let files = |folders: Vec<PathBuf>| {
        let files = folders
            .into_iter()
            .flat_map(|f| names.iter().map(move |n| f.join(n)));
        files.filter(|f| f.is_file()).collect::<Vec<_>>()
    };
    let mut candidates = files(given.iter().flat_map(|p| inside(p)).collect());
    candidates.extend(names.iter().map(PathBuf::from));
    candidates.extend(files(toolkits));
    if let Some(library) = candidates.iter().find_map(|path| attempt(path)) {
        return Ok(library);
    }
    let place = match &given {
        Some(path) => format!("{PATH}={}", path.display()),
        None => format!("{PATH} (not set)"),
    };
    let suffix = match driver {
        Some(version) if version < 13_000 => "-cu12",
        _ => "",
    };
    let failed = match tried.first() {
        Some(first) => format!(" ({first})"),
        None => String::new(),
    };
    device_error(
        NAME,
        format!(
            "{} is missing: no {} in {place}, the loader's path or /usr/local/cuda*/lib64{failed}; install the CUDA \
             toolkit, or `pip install {}{suffix}` and set {PATH} to its site-packages/nvidia",
            sought.title,
            names.join(" or "),
            sought.package,
        ),
    )
}

/// The function of that name.
///
/// # Errors
/// If the library has none.
///
/// # Safety
/// `T` must be its type.
pub(super) unsafe fn function<T: Copy>(library: &'static Library, name: &str) -> Result<T> {
    // SAFETY: the caller vouches for the type, and the library stays loaded.
    let symbol: std::result::Result<Symbol<T>, _> = unsafe { library.get(name.as_bytes()) };
    match symbol {
        Ok(symbol) => Ok(*symbol),
        Err(e) => device_error(
            NAME,
            format!("{name} is missing: {e}; install CUDA 12 or 13"),
        ),
    }
}

/// CUDA's libraries hold threads and handlers at exit: they are never unloaded.
fn keep(library: Library) -> &'static Library {
    Box::leak(Box::new(library))
}

/// File names, the best first. A library of CUDA 13 needs a driver of CUDA 13; one of 12 takes both.
fn names(sought: Sought, driver: Option<i32>) -> Vec<String> {
    let versions: &[u32] = match driver {
        Some(version) if version < 13_000 => &[12],
        _ => &[13, 12],
    };
    versions
        .iter()
        .map(|v| format!("lib{}.so.{v}", sought.stem))
        .collect()
}

fn given() -> Option<PathBuf> {
    std::env::var_os(PATH)
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
}

/// Folders of a toolkit, of `site-packages` or of its `nvidia` that may hold libraries: the folder, its `lib`
/// and `lib64`, and those of every folder in it (`cu13/lib`, `cuda_nvrtc/lib`, …).
fn inside(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for base in [root.to_path_buf(), root.join("nvidia")] {
        folders.extend([base.clone(), base.join("lib"), base.join("lib64")]);
        folders.extend(subfolders(&base, |_| true).iter().map(|f| f.join("lib")));
    }
    // Absolute, so that the loader takes no name for one of its own.
    folders.iter().flat_map(std::path::absolute).collect()
}

/// The library folders of toolkits in /usr/local, the newest first.
fn toolkits() -> Vec<PathBuf> {
    let mut folders = subfolders(Path::new("/usr/local"), |name| name.starts_with("cuda"));
    folders.reverse();
    folders.iter().map(|f| f.join("lib64")).collect()
}

/// Sorted by name: reading a folder gives no order.
fn subfolders(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_of_both_layouts_and_toolkits_are_searched() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["cu13/lib", "cuda_nvrtc/lib", "nvidia/cublas/lib", "lib64"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let found = inside(root.path());
        for folder in [
            "",
            "cu13/lib",
            "cuda_nvrtc/lib",
            "nvidia/cublas/lib",
            "lib64",
        ] {
            assert!(
                found.contains(&root.path().join(folder)),
                "{folder}: {found:?}"
            );
        }
    }

    #[test]
    fn a_library_never_asks_for_a_later_driver() {
        assert_eq!(names(NVRTC, Some(12_040)), ["libnvrtc.so.12"]);
        let both = ["libnvrtc.so.13", "libnvrtc.so.12"];
        assert_eq!(names(NVRTC, Some(13_000)), both);
        assert_eq!(names(NVRTC, None), both);
    }

    #[test]
    fn what_is_missing_is_one_line_with_names_and_remedy() {
        let sought = Sought {
            title: "A library",
            stem: "clip_distill_none",
            package: "nvidia-none",
        };
        let text = open(sought, Some(12_080)).unwrap_err().to_string();
        for word in ["libclip_distill_none.so.12", PATH, "nvidia-none-cu12"] {
            assert!(text.contains(word), "no {word} in {text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}
