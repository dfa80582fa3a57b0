//! The backend over one device, in f32 or in mixed precision.
//!
//! In f32 every tensor is f32. In mixed precision what is kept between operations, and its gradients, are tensors of a
//! low type (bf16 on CUDA, f16 in WGSL); parameters stay f32, with a low copy beside them for products; their gradients,
//! statistics of norms, unit features and losses are f32. A kernel takes its operands in the one type that it is compiled for
//! (`Gpu::activations`), and an operand of the other type is cast first.

use super::LIMITS;
use super::arguments::Arguments;
use super::device::{Device, Kernel, Launch, Product};
use super::memory::Usage;
use crate::backend::{Info, Op, Result, Steps, device_error, gigabytes, unsupported};
use crate::tensor::DType;
use std::sync::Arc;
use std::time::Duration;

/// A backend whose kernels run on one device: a GPU, or the emulated one.
#[derive(Debug)]
pub struct Gpu {
    pub(super) device: Arc<dyn Device>,
    pub(super) name: &'static str,
    low: Option<DType>,
    pub(super) usage: Arc<Usage>,
}

/// Instances of a kernel, by element type.
macro_rules! instance {
    ($module:literal, $entry:literal, $dtype:expr) => {
        $crate::backend::gpu::device::Kernel {
            module: $module,
            entry: match $dtype {
                $crate::tensor::DType::BF16 => concat!($entry, "_bf16"),
                $crate::tensor::DType::F16 => concat!($entry, "_f16"),
                _ => concat!($entry, "_f32"),
            },
        }
    };
}
pub(super) use instance;

/// The smallest multiple, in tokens, that text is padded to.
const LEAST_TEXT_BUCKET: usize = 64;

impl Gpu {
    /// The backend on `device`, under the name that tests and logs know it by; in mixed precision if there is a low type.
    pub(in crate::backend) fn on(
        device: Arc<dyn Device>,
        name: &'static str,
        low: Option<DType>,
    ) -> Self {
        let usage = Arc::default();
        Self {
            device,
            name,
            low,
            usage,
        }
    }

    pub(in crate::backend) fn device(&self) -> &dyn Device {
        self.device.as_ref()
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

    /// By kernel, the number of its runs since the last call and the time of all of them by the device's clock, waiting
    /// for them; none unless the backend was opened to time kernels. For benchmarks.
    ///
    /// # Errors
    /// What failed meanwhile.
    pub fn kernel_times(&self) -> Result<Vec<(&'static str, u64, Duration)>> {
        let times = self.device.kernel_times()?.into_iter();
        Ok(times
            .map(|t| (t.kernel.entry, t.dispatches, t.time))
            .collect())
    }

    /// The element type of what is kept between operations.
    pub(super) fn activations(&self) -> DType {
        self.low.unwrap_or(DType::F32)
    }

    /// The type beside f32 that kernels take, whether or not activations are kept in it.
    pub(super) fn low_type(&self) -> DType {
        self.device.low_type()
    }

    /// Refuses what [`Info::supports`] denies for its size.
    pub(super) fn check_size(&self, op: Op, shape: &[usize]) -> Result<()> {
        match limit(op, shape) {
            Some(limit) => {
                let dtype = self.activations();
                Err(unsupported(self.name, op.name(), dtype, shape, limit))
            }
            None => Ok(()),
        }
    }

    /// Runs a kernel on `arguments`, the struct that it takes; does nothing for an empty grid.
    ///
    /// # Errors
    /// What the device reports; where it knows which struct the kernel takes, also if that is another one.
    pub(super) fn launch<A: Arguments>(
        &self,
        kernel: Kernel,
        launch: Launch,
        arguments: &A,
    ) -> Result<()> {
        const { assert!(A::LAYOUT.is_listed(), "a struct that gpu::LAYOUTS lacks") };
        if launch.grid.contains(&0) {
            return Ok(());
        }
        if let Some(takes) = self.device.takes(kernel)?
            && takes != A::LAYOUT.name
        {
            let (entry, given) = (kernel.entry, A::LAYOUT.name);
            let detail = format!("{entry} takes {takes} and was launched with {given}");
            return device_error(self.name, detail);
        }
        self.device
            .launch(kernel, launch, bytemuck::bytes_of(arguments))
    }

    /// Runs a matrix product; one without elements does nothing.
    pub(super) fn product(&self, product: &Product) -> Result<()> {
        if product.m == 0 || product.n == 0 {
            return Ok(());
        }
        if product.activation.is_some() && !self.device.fuses() {
            return device_error(
                self.name,
                "a product with an activation, which it does not fuse",
            );
        }
        self.device.product(product)
    }
}

/// Whether kernels take operands of a shape, and which they take.
pub(super) type Limit = fn(&[usize]) -> (bool, &'static str);

/// What the kernels of `op` can take, if `shape` is beyond it.
fn limit(op: Op, shape: &[usize]) -> Option<&'static str> {
    let (_, limit) = LIMITS.iter().find(|(limited, _)| *limited == op)?;
    let (fits, words) = limit(shape);
    (!fits).then_some(words)
}

impl Info for Gpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        let precision = match self.low {
            Some(DType::F16) => ", f16",
            Some(_) => ", bf16",
            None => "",
        };
        format!("{}{precision}", self.device.describe())
    }

    fn supports(&self, op: Op, dtype: DType, shape: &[usize]) -> bool {
        let has_type = match op {
            // Parameters stay f32; so are images as they come.
            Op::AdamW | Op::LossScale | Op::Images => dtype == DType::F32,
            _ => dtype == DType::F32 || dtype == self.low_type(),
        };
        has_type && limit(op, shape).is_none()
    }

    fn scales_losses(&self) -> bool {
        self.low == Some(DType::F16)
    }

    /// cuBLASLt's algorithms are chosen by a trial of each kind of product, a step is replayed where its launches are
    /// those of a step before, and the texts of two batches seldom have the same number of tokens: of n captions they
    /// differ by some √n times a caption's deviation, which is about √tokens to twice that. Six to twelve times √tokens
    /// therefore leave one or two kinds of batch, and add a twentieth at 20 000 tokens.
    fn text_bucket(&self, tokens: usize) -> usize {
        (6 * tokens.isqrt())
            .next_power_of_two()
            .max(LEAST_TEXT_BUCKET)
    }
}

impl Steps for Gpu {
    fn begin_step(&self) -> Result<()> {
        self.device.begin_step()
    }

    fn end_step(&self) -> Result<()> {
        self.device.end_step()
    }

    fn replays(&self) -> u64 {
        self.device.replays()
    }

    fn account(&self) -> Option<String> {
        let mut line = format!("tensors took {} at most", gigabytes(self.usage.most()));
        if let Some(held) = self.device.held() {
            line += &format!(", in buffers of {}", gigabytes(held));
        }
        match self.replays() {
            0 => {}
            replays => {
                line += &format!("; replayed as CUDA graphs: {replays} steps or parts of steps");
            }
        }
        Some(line)
    }
}
