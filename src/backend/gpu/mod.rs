//! What the GPU backends share: the operations' launches, tensors in device memory, the pool, steps that are replayed.
//!
//! One file an operation: it names the kernel's arguments and launches it. `device.rs` is all that a device has to do;
//! `storage.rs` goes from tensors to addresses in its memory.
//!
//! In f32 every tensor is f32. In bf16 what is kept between operations, and its gradients, are bf16 tensors;
//! parameters stay f32, with a bf16 copy beside them for products; their gradients, statistics of norms, unit
//! features and losses are f32. A kernel takes its operands in the one type that it is compiled for
//! (`Gpu::activations`), and an operand of the other type is cast first.

#![allow(clippy::too_many_arguments)] // kernels take the operands of their formulas

mod adamw;
mod attention;
mod attention_pool;
mod avg_pool;
mod batch_norm;
mod column_sums;
mod contract;
mod conv2d;
pub(super) mod device;
mod embedding;
mod exp;
mod fetch;
mod grad_norm;
mod images;
mod intra_weights;
mod l2_normalize;
mod layer_norm;
mod linear;
mod mse;
mod patchify;
mod pool;
mod prepend_class;
mod prepend_mean;
pub(super) mod recorder;
mod relation;
mod relation_backward;
mod relation_curvature;
mod select_rows;
mod storage;
mod submatrix;
mod sum;
mod weighted_sum;

use crate::backend::Result;
use crate::tensor::DType;
use bytemuck::Pod;
use device::{Device, Kernel, Launch, Product};
use std::sync::Arc;

/// Instances of a kernel, by element type.
macro_rules! instance {
    ($module:literal, $entry:literal, $dtype:expr) => {
        $crate::backend::gpu::device::Kernel {
            module: $module,
            entry: match $dtype {
                $crate::tensor::DType::BF16 => concat!($entry, "_bf16"),
                _ => concat!($entry, "_f32"),
            },
        }
    };
}
use instance;

/// A backend whose kernels run on one device, in f32 or in mixed precision.
#[derive(Debug)]
pub struct Gpu {
    device: Arc<dyn Device>,
    name: &'static str,
    bf16: bool,
}

impl Gpu {
    /// The backend on `device`, under the name that tests and logs know it by.
    pub(super) fn on(device: Arc<dyn Device>, name: &'static str, bf16: bool) -> Self {
        Self { device, name, bf16 }
    }

    /// How often the host has waited for all work so far, in downloads and in [`Gpu::synchronise`].
    pub fn waits(&self) -> u64 {
        self.device.waits()
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    /// What failed meanwhile.
    pub fn synchronise(&self) -> Result<()> {
        self.device.synchronise()
    }

    /// The element type of what is kept between operations.
    fn activations(&self) -> DType {
        match self.bf16 {
            true => DType::BF16,
            false => DType::F32,
        }
    }

    /// Runs a kernel on `arguments`, the struct that it takes; an empty grid is no launch.
    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &impl Pod) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.device
            .launch(kernel, launch, bytemuck::bytes_of(arguments))
    }

    /// Runs a matrix product; a product of no elements is none.
    fn product(&self, product: &Product) -> Result<()> {
        if product.m == 0 || product.n == 0 {
            return Ok(());
        }
        self.device.product(product)
    }
}

/// A grid for `n` elements of which a block takes `each` at a time and then goes on by the grid's size: enough
/// blocks to fill a large GPU several times over, and no more.
fn spread(n: usize, each: usize) -> [u32; 3] {
    [n.div_ceil(each).min(4096) as u32, 1, 1]
}
