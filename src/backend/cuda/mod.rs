//! CUDA: NVIDIA GPUs, and an emulated device that runs the same kernels anywhere.
//!
//! One file an operation, as in `cuda/`: it names the kernel's arguments and launches. `contract.rs` joins the
//! files to the trait; `storage.rs` goes from tensors to addresses; `device.rs` is all that runs below.
//!
//! In f32 every tensor is f32. In bf16 what is kept between operations, and its gradients, are bf16 tensors;
//! parameters stay f32, with a bf16 copy beside them for products; their gradients, statistics of norms, unit
//! features and losses are f32. A kernel takes its operands in the one type that it is compiled for
//! (`Cuda::activations`), and an operand of the other type is cast first.

#![allow(clippy::too_many_arguments)] // kernels take the operands of their formulas

mod adamw;
mod attention;
mod attention_pool;
mod avg_pool;
mod batch_norm;
mod cache;
mod column_sums;
mod compile;
mod contract;
mod conv2d;
mod cubin;
mod cublaslt;
mod device;
mod driver;
mod embedding;
mod emulated;
mod exp;
mod fetch;
mod grad_norm;
mod graphs;
mod images;
mod intra_weights;
mod l2_normalize;
mod landing;
mod layer_norm;
mod library;
mod linear;
mod modules;
mod mse;
mod nvrtc;
mod open;
mod patchify;
mod pool;
mod prepend_class;
mod prepend_mean;
mod product;
mod recorder;
mod relation;
mod relation_backward;
mod relation_curvature;
mod report;
mod select_rows;
mod staging;
mod storage;
mod submatrix;
mod sum;
mod weighted_sum;

pub use emulated::emulated_libraries;
pub use report::{KernelReport, compile_report};

use crate::backend::Result;
use crate::tensor::DType;
use bytemuck::Pod;
use device::{Device, Kernel, Launch, Product};
use std::sync::Arc;

/// What errors and logs name.
const NAME: &str = "cuda";

/// Instances of a kernel, by element type.
macro_rules! instance {
    ($module:literal, $entry:literal, $dtype:expr) => {
        $crate::backend::cuda::device::Kernel {
            module: $module,
            entry: match $dtype {
                $crate::tensor::DType::BF16 => concat!($entry, "_bf16"),
                _ => concat!($entry, "_f32"),
            },
        }
    };
}
use instance;

/// The CUDA backend on one device.
#[derive(Debug)]
pub struct Cuda {
    device: Arc<dyn Device>,
    name: &'static str,
    bf16: bool,
}

impl Cuda {
    /// The backend on `device`, under the name that tests and logs know it by.
    fn on(device: Arc<dyn Device>, name: &'static str, bf16: bool) -> Self {
        Self { device, name, bf16 }
    }

    /// NVIDIA GPU `ordinal` (or the emulated device, if `CLIP_DISTILL_CUDA_DEVICE=emulated`), in f32 or, with
    /// `bf16`, in mixed precision: activations and products in bf16, sums in f32.
    ///
    /// # Errors
    /// If driver, GPU or a library is missing, with what to do about it.
    pub fn open(ordinal: usize, bf16: bool) -> Result<Self> {
        Ok(Self::on(open::device(ordinal, bf16)?, NAME, bf16))
    }

    /// The device that runs the kernels on the processor: slow, strict, and anywhere where there is a C++
    /// compiler. Unlike what [`Cuda::open`] gives, it replays no steps, and tells of memory used after it was freed.
    ///
    /// # Errors
    /// Where there is none.
    pub fn emulated(bf16: bool) -> Result<Self> {
        Ok(Self::on(emulated::emulated()?, "emulated", bf16))
    }

    /// The devices at hand, emulated and real, each twice: with steps that are replayed, and without.
    #[cfg(test)]
    pub(crate) fn both_ways(bf16: bool) -> Vec<[Self; 2]> {
        let twice = |name, open: &dyn Fn() -> Result<Arc<dyn device::Replay>>| {
            let devices = open().and_then(|one| Ok((one, open()?)));
            let devices = devices.inspect_err(|e| println!("not checked: {e}")).ok()?;
            let one = Arc::new(recorder::Recorder::new(devices.0));
            Some([Self::on(one, name, bf16), Self::on(devices.1, name, bf16)])
        };
        let required = std::env::var("CLIP_DISTILL_REQUIRE").unwrap_or_default();
        let emulated = twice("emulated", &emulated::emulated);
        assert!(
            emulated.is_some() || !required.contains("emulated"),
            "the emulated device is required"
        );
        emulated
            .into_iter()
            .chain(twice(NAME, &|| open::bare(0, bf16)))
            .collect()
    }

    /// How often the host has waited for all work so far, in downloads and in [`Cuda::synchronise`].
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
