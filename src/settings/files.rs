//! Small files of a run's folder: there or not, and never half written.

use super::error::{Result, file, unreadable};
use std::io::ErrorKind;
use std::path::Path;

/// The content of a file; `None` if there is none. Bytes that are not UTF-8 are replaced: a line that a crash
/// left half written may end within a character.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(path, &e)),
    }
}

/// Writes a file, and its folder if need be, so that a reader finds the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| file("create", folder, &e))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, text).map_err(|e| file("write", &temporary, &e))?;
    std::fs::rename(&temporary, path).map_err(|e| file("write", path, &e))
}
