//! CUDA graphs: calls captured from the stream, to be launched as one piece.

use super::driver::check;
use crate::backend::{Result, device_error};
use cudarc::driver::result as cu;
use cudarc::driver::sys;
use std::collections::HashMap;

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
        // What other threads may do meanwhile is not for this stream to forbid.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and nothing is being captured from it.
        check("cuStreamBeginCapture", unsafe {
            cu::stream::begin_capture(stream, mode)
        })?;
        let made = calls();
        // SAFETY: begun above; it ends whatever happened.
        let graph = check("cuStreamEndCapture", unsafe {
            cu::stream::end_capture(stream)
        });
        // SAFETY: a graph just made, which nobody else knows.
        let exec = graph.and_then(|graph| unsafe {
            let exec = cu::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = cu::graph::destroy(graph);
            check("cuGraphInstantiate", exec)
        });
        self.next += 1;
        if let Ok(exec) = exec {
            self.made.insert(self.next, exec);
        }
        // What it needs of the device it takes here, and not in the middle of the training.
        // SAFETY: graph and stream are alive.
        let uploaded = made
            .and(exec)
            .and_then(|exec| check("cuGraphUpload", unsafe { cu::graph::upload(exec, stream) }));
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
        check("cuGraphLaunch", unsafe { cu::graph::launch(exec, stream) })
    }

    /// Destroys a graph, as soon as it no longer runs.
    pub fn discard(&mut self, number: u64) {
        if let Some(exec) = self.made.remove(&number) {
            // SAFETY: made by `capture`, destroyed once; the driver keeps what still runs until it has.
            let _ = unsafe { cu::graph::exec_destroy(exec) };
        }
    }

    /// Destroys all graphs.
    pub fn close(&mut self) {
        let numbers: Vec<u64> = self.made.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.discard(number));
    }
}
