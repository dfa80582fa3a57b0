//! Copies, zeros and the numbering of lanes within the device, by kernels: the commands that wgpu has for it would end the pass that all other
//! dispatches share, and cannot copy within one buffer.

use crate::backend::gpu::arguments::arguments;
use crate::backend::gpu::device::{Address, Kernel, Launch};

arguments! {
    pub(super) struct CopyArguments in "moves" {
        source: Address,
        to: Address,
        words: i64,
    }

    pub(super) struct ClearArguments in "moves" {
        to: Address,
        words: i64,
    }

    pub(super) struct LanesArguments in "moves" {
        to: Address,
    }
}

fn spread(words: usize) -> Launch {
    Launch::spread(words, 256 * 4)
}

/// A kernel, its launch and the bytes of its struct.
pub(super) type Move<A> = (Kernel, Launch, A);

/// Copies `bytes` bytes, and up to three more of the same block.
pub(super) fn copy(source: Address, to: Address, bytes: usize) -> Move<CopyArguments> {
    let words = bytes.div_ceil(4);
    let arguments = CopyArguments {
        source,
        to,
        words: words as i64,
    };
    (Kernel::new("moves", "copy_words"), spread(words), arguments)
}

/// Writes each of 256 invocations' place in its subgroup, and in the upper half of the word the subgroup's size.
pub(super) fn lanes(to: Address) -> Move<LanesArguments> {
    (
        Kernel::new("moves", "lanes"),
        Launch::blocks([1, 1, 1], 256),
        LanesArguments { to },
    )
}

/// Sets `bytes` bytes to zero, and up to three more of the same block.
pub(super) fn clear(to: Address, bytes: usize) -> Move<ClearArguments> {
    let words = bytes.div_ceil(4);
    let arguments = ClearArguments {
        to,
        words: words as i64,
    };
    (
        Kernel::new("moves", "clear_words"),
        spread(words),
        arguments,
    )
}
