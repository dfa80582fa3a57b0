//! CUDA graphs: calls captured from the stream, to be launched as one piece.

use super::answer::check;
use super::api;
use crate::backend::{Result, device_error};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ptr;

/// The graphs that can be launched.
#[derive(Default)]
pub(super) struct Graphs {
    made: HashMap<u64, sys::CUgraphExec>,
    next: u64,
}

// SAFETY: handles of the driver, which belong to no thread.
unsafe impl Send for Graphs {}

impl Graphs {
    /// Makes a graph of what `calls` puts on `stream`, whose context is current. Returns its number.
    pub fn capture(
        &mut self,
        stream: sys::CUstream,
        calls: impl FnOnce() -> Result<()>,
    ) -> Result<u64> {
        // Thread-local: other threads may go on calling the driver.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and nothing is being captured from it.
        check("cuStreamBeginCapture", unsafe {
            api::capture_begin(stream, mode)
        })?;
        let made = calls();
        // SAFETY: begun above; it ends whatever happened.
        let graph = api::written(ptr::null_mut(), |graph| unsafe {
            api::capture_end(stream, graph)
        });
        let graph = check("cuStreamEndCapture", graph);
        // SAFETY: a graph just made, which nobody else knows.
        let exec = graph.and_then(|graph| unsafe {
            let exec = api::written(ptr::null_mut(), |exec| {
                api::graph_instantiate(exec, graph, 0)
            });
            let _ = api::graph_destroy(graph);
            check("cuGraphInstantiate", exec)
        });
        self.next += 1;
        if let Ok(exec) = exec {
            self.made.insert(self.next, exec);
        }
        // The graph's memory is taken here and not at its first launch, in the middle of training.
        // SAFETY: graph and stream are alive.
        let uploaded = made
            .and(exec)
            .and_then(|exec| check("cuGraphUpload", unsafe { api::graph_upload(exec, stream) }));
        match uploaded {
            Ok(()) => Ok(self.next),
            Err(e) => {
                self.discard(self.next);
                Err(e)
            }
        }
    }

    /// Launches a graph on `stream`, whose context is current.
    pub fn launch(&self, number: u64, stream: sys::CUstream) -> Result<()> {
        let Some(&exec) = self.made.get(&number) else {
            return device_error(super::NAME, format!("there is no graph {number}"));
        };
        // SAFETY: graph and stream are alive; what its calls may touch is the caller's.
        check("cuGraphLaunch", unsafe { api::graph_launch(exec, stream) })
    }

    /// Destroys a graph, as soon as it no longer runs.
    pub fn discard(&mut self, number: u64) {
        if let Some(exec) = self.made.remove(&number) {
            // SAFETY: made by `capture`, destroyed once; the driver keeps what still runs until it has.
            let _ = unsafe { api::executable_destroy(exec) };
        }
    }

    /// Destroys all graphs.
    pub fn close(&mut self) {
        let numbers: Vec<u64> = self.made.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.discard(number));
    }
}
