//! Sums of all elements, in two stages of fixed order, and scaling by a number on the device.

use super::device::{Address, Kernel, Launch};
use super::memory::Memory;
use super::operand::optional;
use super::{Gpu, arguments};
use crate::backend::{Result, Sum, shape_error};
use crate::tensor::{DType, Tensor};

const MODULE: &str = "sum";

/// Elements that a block sums in the first stage.
const CHUNK: usize = 4096;

arguments! {
    struct SumFinishArguments in "sum" {
        partials: Address,
        sum: Address,
        factor: f64,
        count: i32,
        root: i32,
    }

    struct SumArguments in "sum" {
        x: Address,
        partials: Address,
        n: i64,
        chunk: i64,
    }

    struct ScaleByArguments in "sum" {
        scalar: Address,
        x: Address,
        y: Address,
        n: i64,
        factor: f32,
        padding: i32,
    }
}

/// The f64 partial sums of a kernel that takes `n` elements in chunks.
pub(super) struct Partials {
    memory: Memory,
    count: usize,
}

impl Partials {
    pub(super) fn new(gpu: &Gpu, count: usize) -> Result<Self> {
        let memory = gpu.allocate(count * 8)?;
        Ok(Self { memory, count })
    }

    /// For the chunks of `n` elements, and the launch that makes them.
    pub(super) fn of_elements(gpu: &Gpu, n: usize) -> Result<(Self, Launch, i64)> {
        let count = n.div_ceil(CHUNK);
        let launch = Launch::blocks([count, 1, 1], 256);
        Ok((Self::new(gpu, count)?, launch, CHUNK as i64))
    }

    pub(super) fn at(&self) -> Address {
        self.memory.at()
    }

    /// factor · Σ, an f32 at `at`.
    pub(super) fn finish(&self, gpu: &Gpu, factor: f64, at: Address) -> Result<()> {
        self.finish_as(gpu, factor, false, at)
    }

    /// √Σ, an f32 at `at`.
    pub(super) fn finish_root(&self, gpu: &Gpu, at: Address) -> Result<()> {
        self.finish_as(gpu, 1.0, true, at)
    }

    fn finish_as(&self, gpu: &Gpu, factor: f64, root: bool, at: Address) -> Result<()> {
        let kernel = Kernel {
            module: MODULE,
            entry: "sum_finish",
        };
        let launch = Launch::blocks([1, 1, 1], 256);
        let arguments = SumFinishArguments {
            partials: self.at(),
            sum: at,
            factor,
            count: self.count as i32,
            root: root.into(),
        };
        gpu.launch(kernel, launch, &arguments)
    }
}

impl Sum for Gpu {
    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        let n = x.len();
        let (partials, launch, chunk) = Partials::of_elements(self, n)?;
        let x = self.read("sum", x, DType::F32)?;
        let kernel = Kernel {
            module: MODULE,
            entry: "sum_f32",
        };
        let arguments = SumArguments {
            x: x.at(),
            partials: partials.at(),
            n: n as i64,
            chunk,
        };
        self.launch(kernel, launch, &arguments)?;
        let (y, y_at) = self.empty(&[1], DType::F32)?;
        partials.finish(self, factor.into(), y_at)?;
        Ok(y)
    }

    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor> {
        const OP: &str = "scale_by";
        if scalar.len() != 1 || x.is_some_and(|x| x.len() != n) {
            let detail = format!("scalar {:?}, {n} elements", scalar.shape());
            return shape_error(OP, detail);
        }
        let scalar = self.read(OP, scalar, DType::F32)?;
        let x = x.map(|x| self.read(OP, x, DType::F32)).transpose()?;
        let (y, y_at) = self.empty(&[n], DType::F32)?;
        let kernel = Kernel {
            module: MODULE,
            entry: "scale_by_f32",
        };
        let launch = Launch::spread(n, 256 * 4);
        let arguments = ScaleByArguments {
            scalar: scalar.at(),
            x: optional(&x),
            y: y_at,
            n: n as i64,
            factor,
            padding: 0,
        };
        self.launch(kernel, launch, &arguments)?;
        Ok(y)
    }
}
