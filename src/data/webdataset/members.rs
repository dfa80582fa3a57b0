//! The members of a shard, and which of them belong together.

use std::cell::Cell;
use std::io::{self, Read};

use crate::data::options::DatasetOptions;
use crate::data::pattern::is_image;

/// Files within a shard larger than this are skipped: a gzip bomb must not fill the memory.
pub const MAX_ENTRY_BYTES: u64 = 256 << 20;

/// Headers of one file, extension records included, larger than this end the shard: the archive's reader
/// holds the long names and attributes in them in memory, whatever their size.
pub(super) const MAX_HEADER_BYTES: u64 = 1 << 20;

/// A reader that gives `left` bytes at most, then an error.
pub(super) struct Budget<'a, R> {
    pub bytes: R,
    pub left: &'a Cell<u64>,
}

impl<R: Read> Read for Budget<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).map_or(buffer.len(), |l| l.min(buffer.len()));
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other("an entry's header is far too large"));
        }
        let n = self.bytes.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - n as u64);
        Ok(n)
    }
}

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Index into the image keys.
    Image(usize),
    /// Index into the text keys.
    Text(usize),
    Json,
    Class,
}

/// What a member turned out to be.
#[derive(Debug)]
pub(super) enum Member {
    File {
        key: String,
        slot: Slot,
        bytes: Vec<u8>,
    },
    /// Nothing to tell: a folder, or webdataset's own metadata.
    Nothing,
    /// A link, or sparse in a form that is not read.
    NotAFile(String),
    Oversized(String),
    /// An image whose name has dots before its extension.
    Dotted(String),
    /// A file that no flag asks for.
    Unused(String),
}

/// The extensions that the members of a sample are found by.
pub(super) struct Keys {
    images: Vec<String>,
    texts: Vec<String>,
}

impl Keys {
    pub(super) fn of(options: &DatasetOptions) -> Self {
        Self {
            images: options.image_keys.clone(),
            texts: options.text_keys(),
        }
    }

    fn slot(&self, extension: &str) -> Option<Slot> {
        let place = |keys: &[String]| keys.iter().position(|k| k == extension);
        if let Some(i) = place(&self.images) {
            return Some(Slot::Image(i));
        }
        if let Some(i) = place(&self.texts) {
            return Some(Slot::Text(i));
        }
        match extension {
            "json" => Some(Slot::Json),
            "cls" => Some(Slot::Class),
            _ => None,
        }
    }

    /// Reads a member that belongs to a sample, and says what any other is.
    ///
    /// # Errors
    /// If the archive ends within it or cannot be read.
    pub(super) fn read(&self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Member> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() || is_metadata(&path) {
            return Ok(Member::Nothing);
        }
        if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse())
            || sparse_by_attributes(entry)?
        {
            return Ok(Member::NotAFile(path));
        }
        let Some((key, extension)) = split(&path) else {
            return Ok(Member::Unused(path));
        };
        let extension = extension.to_lowercase();
        let Some(slot) = self.slot(&extension) else {
            let dotted = extension.contains('.') && is_image(&extension);
            return Ok(if dotted {
                Member::Dotted(path)
            } else {
                Member::Unused(path)
            });
        };
        let key = key.to_owned();
        let size = entry.size();
        if size > MAX_ENTRY_BYTES {
            return Ok(Member::Oversized(path));
        }
        // A header can claim any size: no more is taken at once than a shard of photographs needs.
        let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
        entry.take(MAX_ENTRY_BYTES).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("ends within {path}"),
            ));
        }
        Ok(Member::File { key, slot, bytes })
    }
}

/// Whether the file is sparse as POSIX archives have it: then its content begins with a map.
fn sparse_by_attributes(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<bool> {
    let Some(attributes) = entry.pax_extensions()? else {
        return Ok(false);
    };
    for attribute in attributes {
        if attribute?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the member is webdataset's own: its first folder or file is named `__…__`.
fn is_metadata(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    first.len() >= 4 && first.starts_with("__") && first.ends_with("__")
}

/// webdataset's key and extension of a path: the extension begins after the first dot of the file's name,
/// which must not be its first character.
fn split(path: &str) -> Option<(&str, &str)> {
    let name_at = path.rfind('/').map_or(0, |i| i + 1);
    let (stem, extension) = path[name_at..].split_once('.')?;
    (!stem.is_empty()).then(|| (&path[..name_at + stem.len()], extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `base_plus_ext` and the `skip_meta` of webdataset 1.0.2, but for hidden files in a folder: there it
    /// takes the folder for the key.
    #[test]
    fn paths_split_as_in_webdataset() {
        for (path, key, extension) in [
            ("0001.jpg", "0001", "jpg"),
            ("a/0001.input.jpg", "a/0001", "input.jpg"),
            ("a.b/0001.jpg", "a.b/0001", "jpg"),
            ("./0001.jpg", "./0001", "jpg"),
            ("St. Anna.jpg", "St", " Anna.jpg"),
            ("__x.json", "__x", "json"),
        ] {
            assert_eq!(split(path), Some((key, extension)));
            assert!(!is_metadata(path));
        }
        for path in ["0001", ".hidden.jpg", "a/.hidden", "a.b/0001"] {
            assert_eq!(split(path), None, "{path}");
        }
        for path in ["__meta__", "__meta__/x.json", "____"] {
            assert!(is_metadata(path), "{path}");
        }
        for path in ["__meta__.json", "a/__meta__", "__MACOSX/x.jpg", "___"] {
            assert!(!is_metadata(path), "{path}");
        }
    }
}
