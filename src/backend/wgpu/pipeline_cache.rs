//! Compiled pipelines on disk, where the driver gives them out.
//!
//! The file is the driver's own data behind a checksum: a driver trusts what it once gave.

use crate::backend::cache;
use ::wgpu::{AdapterInfo, Device, Features, PipelineCache, PipelineCacheDescriptor};
use std::path::{Path, PathBuf};

/// A device's cache, and where it is kept.
#[derive(Debug)]
pub(super) struct DiskCache {
    pub pipelines: PipelineCache,
    file: PathBuf,
}

/// The content of a whole file.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(file).ok()?;
    let sum = bytes.split_off(bytes.len().checked_sub(4)?);
    let whole = crc32fast::hash(&bytes).to_le_bytes() == *sum;
    whole.then_some(bytes)
}

impl DiskCache {
    /// The cache of a device; `None` where there can be none.
    pub fn open(device: &Device, info: &AdapterInfo) -> Option<Self> {
        if !device.features().contains(Features::PIPELINE_CACHE) {
            return None;
        }
        let key = ::wgpu::util::pipeline_cache_key(info)?;
        let file = cache::folder().join("wgpu").join(key);
        let data = read(&file);
        let descriptor = PipelineCacheDescriptor {
            label: None,
            data: data.as_deref(),
            fallback: true,
        };
        // SAFETY: what a driver gave for an adapter of this name, whole; wgpu asks whether it was this driver.
        let pipelines = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { pipelines, file })
    }

    /// Keeps what was compiled. A cache that cannot be written costs the next start its compilations, and nothing else.
    pub fn save(&self) {
        let Some(mut bytes) = self.pipelines.get_data() else {
            return;
        };
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let beside = self.file.with_extension(std::process::id().to_string());
        let written = self.file.parent().map(std::fs::create_dir_all).transpose();
        let written = written.and_then(|_| std::fs::write(&beside, bytes));
        let renamed = written.and_then(|()| std::fs::rename(&beside, &self.file));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_damaged_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let mut bytes = b"what a driver gave".to_vec();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(read(&file).as_deref(), Some(&b"what a driver gave"[..]));
        for wrong in [&bytes[..3], &bytes[1..], b""] {
            std::fs::write(&file, wrong).unwrap();
            assert_eq!(read(&file), None);
        }
    }
}
