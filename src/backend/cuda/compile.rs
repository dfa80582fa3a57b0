//! From `cuda/<module>.cu` to a GPU's machine code: options, architecture, and the cache on disk.

use super::NAME;
use super::cache;
use super::cubin::{self, Entry};
use super::modules::{HEADERS, Module};
use super::nvrtc::{Compiled, Nvrtc};
use crate::backend::{Result, device_error};
use crate::notices::notice;
use std::sync::Once;

/// A module ready to be loaded.
#[derive(Debug)]
pub(super) struct Image {
    /// The ELF file.
    pub cubin: Vec<u8>,
    /// Its kernels.
    pub entries: Vec<Entry>,
}

/// The architecture to compile for, for a device of that compute capability: its own if NVRTC knows it, else
/// the highest before it within the same generation, whose code it runs as well.
///
/// # Errors
/// For a GPU before Turing, or one of a generation later than this NVRTC.
pub(super) fn architecture(nvrtc: &Nvrtc, (major, minor): (u32, u32)) -> Result<String> {
    let own = 10 * major + minor;
    if own < 75 {
        return device_error(
            NAME,
            format!("the GPU has compute capability {major}.{minor}; 7.5 (Turing) is the least"),
        );
    }
    let known = nvrtc.architectures();
    match known.iter().filter(|&&a| a / 10 == major && a <= own).max() {
        // sm_90a is Hopper with all that only Hopper has.
        Some(90) => Ok("sm_90a".into()),
        Some(best) => Ok(format!("sm_{best}")),
        None => {
            let (v, w) = nvrtc.version();
            device_error(
                NAME,
                format!(
                    "NVRTC {v}.{w} cannot compile for compute capability {major}.{minor}; install one of a later CUDA"
                ),
            )
        }
    }
}

/// Compiles a module for an architecture such as `sm_80`.
///
/// # Errors
/// With NVRTC's messages.
pub(super) fn compile(nvrtc: &Nvrtc, module: &Module, architecture: &str) -> Result<Compiled> {
    let file = format!("{}.cu", module.name);
    nvrtc.compile(&file, &module.text(), HEADERS, &options(architecture))
}

/// As [`compile`], from the cache if it is there.
///
/// # Errors
/// With NVRTC's messages.
pub(super) fn image(nvrtc: &Nvrtc, module: &Module, architecture: &str) -> Result<Image> {
    let read = |cubin: Vec<u8>| {
        let entries = cubin::entries(&cubin)?;
        Some(Image { cubin, entries })
    };
    let key = key(nvrtc, module, architecture);
    let name = format!("{}-{architecture}-{key}", module.name);
    let kept = cache::file("cubin", &name, |folder| {
        // Half a minute for all of them, in which a first run would seem to hang.
        static SAY: Once = Once::new();
        SAY.call_once(|| {
            notice(format_args!(
                "compiling CUDA kernels for {architecture}; later runs take them from the cache"
            ))
        });
        let path = folder.join("new");
        let compiled = compile(nvrtc, module, architecture).map_err(|e| e.to_string())?;
        std::fs::write(&path, compiled.cubin).map_err(|e| e.to_string())?;
        Ok(path)
    });
    let kept = kept.ok().and_then(|path| std::fs::read(path).ok());
    if let Some(image) = kept.and_then(read) {
        return Ok(image);
    }
    // The cache cannot be used, or the module does not compile.
    match read(compile(nvrtc, module, architecture)?.cubin) {
        Some(image) => Ok(image),
        None => device_error(NAME, format!("{name}: NVRTC's output is no cubin")),
    }
}

fn options(architecture: &str) -> Vec<String> {
    [
        &format!("--gpu-architecture={architecture}"),
        "--std=c++17",
        // For profilers; the code is the same.
        "--generate-line-info",
        // The assembler then logs registers, memory and spills.
        "--ptxas-options=-v",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A name that depends on everything the code depends on.
fn key(nvrtc: &Nvrtc, module: &Module, architecture: &str) -> String {
    let (major, minor) = nvrtc.version();
    let version = format!("NVRTC {major}.{minor}");
    let (options, text) = (options(architecture), module.text());
    let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
    let options = options.iter().map(String::as_str);
    cache::key(
        [version.as_str(), text.as_str()]
            .into_iter()
            .chain(options)
            .chain(headers),
    )
}
