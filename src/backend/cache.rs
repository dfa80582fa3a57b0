//! Compiled kernels on disk, safe for processes that run side by side.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A name for what is made from these texts: it changes with any of them. Another version of the standard library
/// may give another name, which costs a compilation.
pub(in crate::backend) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part.as_bytes());
    }
    format!("{:016x}", hasher.finish())
}

/// The cache's folder: below `XDG_CACHE_HOME`, `~/.cache` or the folder of temporary files.
pub(in crate::backend) fn folder() -> PathBuf {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("clip-distill")
}

/// The file `name` of the cache's part `kind`. If it does not exist, `make` writes it in an empty folder and
/// returns where; it is then moved into place in one step, so that no process reads half a file, and the first of
/// several stays.
///
/// # Errors
/// Those of `make`, or the path and the system's error.
pub(in crate::backend) fn file(
    kind: &str,
    name: &str,
    make: impl FnOnce(&Path) -> Result<PathBuf, String>,
) -> Result<PathBuf, String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let place = folder().join(kind);
    let path = place.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let making = place.join(format!(".{name}.{}.{count}", std::process::id()));
    let say = |e: std::io::Error| format!("{}: {e}", making.display());
    std::fs::create_dir_all(&making).map_err(say)?;
    let made = make(&making).and_then(|made| {
        let first = std::fs::hard_link(&made, &path);
        match first.is_ok() || path.is_file() {
            true => Ok(()),
            // A file system without links.
            false => std::fs::rename(made, &path).map_err(say),
        }
    });
    // A leftover file does no harm.
    let _ = std::fs::remove_dir_all(&making);
    made.map(|()| path)
}
