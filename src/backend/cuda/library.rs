//! Finding CUDA's libraries at run time.
//!
//! The driver, NVRTC and cuBLASLt are opened here and called through tables of our own: cudarc looks for the names of
//! the one CUDA version that it was built for and panics where a library or a function is missing; we take
//! versions 12 and 13, out of Python's wheels as well, and say what is missing.

use super::NAME;
use crate::backend::{Result, device_error};
use libloading::{Library, Symbol};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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

/// Where the driver may be although the loader does not look there.
const DRIVER_FOLDERS: [&str; 2] = ["/usr/lib/wsl/lib", "/usr/local/cuda/compat"];
/// Its file, and that of a driver without the link that `ldconfig` makes.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// NVIDIA's driver, opened once.
///
/// # Errors
/// If there is none: which files were looked for, where, and what to install.
pub(super) fn driver() -> Result<&'static Library> {
    static DRIVER: OnceLock<&'static Library> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let mut tried = Tried::default();
    let names = DRIVER_NAMES.map(PathBuf::from);
    let mut folders: Vec<PathBuf> = DRIVER_FOLDERS.iter().map(PathBuf::from).collect();
    folders.extend(given().iter().flat_map(|p| inside(p)));
    let files = names.iter().cloned().chain(files(&folders, &DRIVER_NAMES));
    if let Some((library, _)) = files.into_iter().find_map(|path| tried.open(path)) {
        return Ok(DRIVER.get_or_init(|| library));
    }
    device_error(
        NAME,
        format!(
            "no NVIDIA driver: there is no {} in the loader's path, {} or {}{tried}; install NVIDIA's driver \
             (`nvidia-smi` then lists the GPU), in a container start it with the GPU",
            DRIVER_NAMES.join(" or "),
            DRIVER_FOLDERS.join(", "),
            place(),
        ),
    )
}

/// The driver's function of that name.
///
/// # Errors
/// If the driver is too old to have it.
///
/// # Safety
/// `T` must be its type.
pub(super) unsafe fn driver_function<T: Copy>(driver: &'static Library, name: &str) -> Result<T> {
    // SAFETY: guaranteed by the caller; the library stays loaded.
    match unsafe { driver.get::<T>(name.as_bytes()) } {
        Ok(symbol) => Ok(*symbol),
        Err(_) => device_error(
            NAME,
            format!(
                "NVIDIA's driver has no {name}; install one of CUDA 12 or later (525 or later)"
            ),
        ),
    }
}

/// A library that stays loaded.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    library: &'static Library,
    /// The folder that it was taken from, unless the loader found it by name.
    folder: Option<PathBuf>,
}

impl Opened {
    /// Loads a file of the same folder, if there is one, so that the library finds it by its name: a wheel's folder is
    /// on no search path, and not every version of a library names its own folder as its run path.
    pub fn preload(&self, name: &str) {
        if let Some(folder) = &self.folder {
            // SAFETY: a library of NVIDIA's. Without it the library itself reports what it misses.
            if let Ok(library) = unsafe { Library::new(folder.join(name)) } {
                keep(library);
            }
        }
    }
}

/// Opens libraries, and remembers what was wrong with those that are there and do not load.
#[derive(Default)]
struct Tried(Vec<String>);

impl Tried {
    /// The library, and its folder if the path names one.
    fn open(&mut self, path: PathBuf) -> Option<(&'static Library, Option<PathBuf>)> {
        // SAFETY: NVIDIA's libraries may be loaded into any process.
        match unsafe { Library::new(&path) } {
            Ok(library) => {
                let folder = path.parent().filter(|p| p.is_absolute());
                Some((keep(library), folder.map(Path::to_path_buf)))
            }
            Err(e) => {
                // A missing library is expected; a broken one is an error.
                let text = reason(&e);
                let name = path.display().to_string();
                if !text.starts_with(&format!("{name}: cannot open shared object file: No such")) {
                    let named = text.contains(&name);
                    self.0.push(if named {
                        text
                    } else {
                        format!("{name}: {text}")
                    });
                }
                None
            }
        }
    }
}

impl std::fmt::Display for Tried {
    /// The first failure in parentheses; nothing if there was none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.first() {
            Some(first) => write!(f, " ({first})"),
            None => Ok(()),
        }
    }
}

/// Opens a library: first out of `CLIP_DISTILL_CUDA_PATH`, then where the loader looks, then out of
/// toolkits in /usr/local. With the driver's CUDA version known, those that need a later driver are passed over.
///
/// # Errors
/// If there is none.
pub(super) fn open(sought: Sought, driver: Option<i32>) -> Result<Opened> {
    let names = names(sought, driver);
    let mut tried = Tried::default();
    let given: Vec<PathBuf> = given().iter().flat_map(|p| inside(p)).collect();
    let mut candidates = files(&given, &names);
    candidates.extend(names.iter().map(PathBuf::from));
    candidates.extend(files(&toolkits(), &names));
    if let Some((library, folder)) = candidates.into_iter().find_map(|path| tried.open(path)) {
        return Ok(Opened { library, folder });
    }
    let suffix = match driver {
        Some(version) if version < 13_000 => "-cu12",
        _ => "",
    };
    device_error(
        NAME,
        format!(
            "{} is missing: no {} in {}, the loader's path or /usr/local/cuda*/lib64{tried}; install the CUDA \
             toolkit, or `pip install {}{suffix}` and set {PATH} to its site-packages/nvidia",
            sought.title,
            names.join(" or "),
            place(),
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
pub(super) unsafe fn function<T: Copy>(opened: &Opened, name: &str) -> Result<T> {
    // SAFETY: the type is guaranteed by the caller, and the library stays loaded.
    let symbol: std::result::Result<Symbol<T>, _> = unsafe { opened.library.get(name.as_bytes()) };
    match symbol {
        Ok(symbol) => Ok(*symbol),
        Err(e) => device_error(
            NAME,
            format!("{name} is missing: {}; install CUDA 12 or 13", reason(&e)),
        ),
    }
}

/// What the loader says, which libloading keeps as its error's source.
fn reason(error: &libloading::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| source.to_string())
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

/// The files of these names in these folders, by folder.
fn files(folders: &[PathBuf], names: &[impl AsRef<Path>]) -> Vec<PathBuf> {
    let files = folders
        .iter()
        .flat_map(|f| names.iter().map(move |n| f.join(n)));
    files.filter(|f| f.is_file()).collect()
}

/// The environment variable and what it is set to.
fn place() -> String {
    match given() {
        Some(path) => format!("{PATH}={}", path.display()),
        None => format!("{PATH} (not set)"),
    }
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
    // Absolute: the loader would search its own path for a bare name.
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
    fn a_missing_library_is_expected_and_a_broken_one_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let broken = root.path().join("libbroken.so.1");
        std::fs::write(&broken, "not a library").unwrap();
        let mut tried = Tried::default();
        assert!(tried.open("libclip_distill_none.so.1".into()).is_none());
        assert_eq!(tried.to_string(), "");
        assert!(tried.open(broken.clone()).is_none());
        let text = tried.to_string();
        let name = broken.display().to_string();
        assert_eq!(text.matches(&name).count(), 1, "{text}");
        assert!(text.len() > name.len() + 10, "{text}");
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
