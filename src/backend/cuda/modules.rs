//! The kernels' sources, embedded: what NVRTC compiles for a GPU and g++ for the emulated device.

use crate::backend::gpu::arguments::checks;

/// A file `cuda/<name>.cu`.
#[derive(Debug)]
pub(super) struct Module {
    /// File name without its end.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

impl Module {
    /// What is compiled: the text, and the proof that its argument structs are those that are launched.
    pub(super) fn text(&self) -> String {
        [self.source, &checks(self.name)].concat()
    }
}

// MODULES: every `cuda/*.cu`. HEADERS: name and text of every `cuda/*.cuh`, which the modules include.
include!(concat!(env!("OUT_DIR"), "/cuda_sources.rs"));

/// The module of that name.
pub(super) fn module(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|m| m.name == name)
}
