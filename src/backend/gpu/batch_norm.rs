//! Batch normalisation with the residual and the ReLU that follow it.

use super::device::{Address, Kernel, Launch};
use super::operand::{done, optional, target_add, target_address};
use super::{Gpu, arguments, instance};
use crate::backend::{
    BatchNorm, BatchNormBackward, BatchNormForward, Moments, Result, Slot, Storage,
};
use crate::tensor::{DType, Tensor};

const OP: &str = "batch_norm";

/// Threads of a block.
const THREADS: usize = 256;
/// Blocks that a matrix is divided among: about what fills a large GPU.
const BLOCKS: usize = 1024;
/// Columns of a block in the second stage of a sum.
const FINISH_COLUMNS: usize = 8;

arguments! {
    /// How kernels divide a matrix, by its shape alone, so that the order of sums does not depend on the device.
    struct Split in "batch_norm" {
        rows: i64,
        chunk: i64,
        columns: i32,
        lanes: i32,
    }

    struct MomentsArguments in "batch_norm" {
        split: Split,
        x: Address,
        partials: Address,
    }

    struct MomentsFinishArguments in "batch_norm" {
        split: Split,
        x: Address,
        partials: Address,
        mean: Address,
        variance: Address,
        chunks: i32,
        unused: i32,
    }

    struct BatchNormArguments in "batch_norm" {
        split: Split,
        x: Address,
        gamma: Address,
        beta: Address,
        mean: Address,
        variance: Address,
        residual: Address,
        y: Address,
        eps: f32,
        relu: i32,
    }

    struct SumsArguments in "batch_norm" {
        split: Split,
        dy: Address,
        x: Address,
        y: Address,
        mean: Address,
        g: Address,
        partials: Address,
    }

    struct SumsFinishArguments in "batch_norm" {
        split: Split,
        partials: Address,
        gamma: Address,
        variance: Address,
        dgamma: Address,
        dbeta: Address,
        constants: Address,
        chunks: i32,
        eps: f32,
        add_dgamma: i32,
        add_dbeta: i32,
        of_batch: i32,
        unused: i32,
    }

    struct BatchNormBackwardArguments in "batch_norm" {
        split: Split,
        dy: Address,
        x: Address,
        y: Address,
        mean: Address,
        constants: Address,
        dx: Address,
        add: i32,
        unused: i32,
    }
}

impl Split {
    fn new(rows: usize, columns: usize, dtype: DType) -> Self {
        let units = columns.div_ceil(16 / dtype.size());
        let lanes = units.next_power_of_two().clamp(1, 32);
        let lines = THREADS / lanes;
        let chunks = (BLOCKS / units.div_ceil(lanes).max(1)).max(1);
        // Whole lines, and four of them in flight at a time.
        let chunk = rows.div_ceil(chunks).next_multiple_of(lines).max(4 * lines);
        Self {
            rows: rows as i64,
            chunk: chunk as i64,
            columns: columns as i32,
            lanes: lanes as i32,
        }
    }

    /// Chunks of rows.
    fn chunks(&self) -> usize {
        (self.rows as usize).div_ceil(self.chunk as usize)
    }

    /// Of a kernel over all elements.
    fn launch(&self, dtype: DType) -> Launch {
        let units = (self.columns as usize).div_ceil(16 / dtype.size());
        let tiles = units.div_ceil(self.lanes as usize);
        Launch::blocks([tiles, self.chunks(), 1], THREADS as u32)
    }

    /// Of the second stage of a sum.
    fn finish(&self) -> Launch {
        Launch::blocks(
            [(self.columns as usize).div_ceil(FINISH_COLUMNS), 1, 1],
            THREADS as u32,
        )
    }

    /// Bytes of two sums of each chunk.
    fn partials(&self) -> usize {
        self.chunks() * 2 * self.columns as usize * 4
    }
}

impl BatchNorm for Gpu {
    fn batch_moments(&self, x: &Tensor) -> Result<Moments> {
        let (rows, width, dtype) = (x.rows(), x.width(), self.activations());
        let split = Split::new(rows, width, dtype);
        let x = self.read(OP, x, dtype)?;
        let partials = self.allocate(split.partials())?;
        let arguments = MomentsArguments {
            split,
            x: x.at(),
            partials: partials.at(),
        };
        let kernel = instance!("batch_norm", "batch_moments", dtype);
        self.launch(kernel, split.launch(dtype), &arguments)?;
        let (mean, mean_at) = self.empty(&[width], DType::F32)?;
        let (variance, variance_at) = self.empty(&[width], DType::F32)?;
        let arguments = MomentsFinishArguments {
            split,
            x: x.at(),
            partials: partials.at(),
            mean: mean_at,
            variance: variance_at,
            chunks: split.chunks() as i32,
            unused: 0,
        };
        let kernel = instance!("batch_norm", "batch_moments_finish", dtype);
        self.launch(kernel, split.finish(), &arguments)?;
        Ok(Moments { mean, variance })
    }

    fn batch_norm(&self, of: BatchNormForward) -> Result<Tensor> {
        let BatchNormForward {
            x,
            gamma,
            beta,
            moments,
            eps,
            residual,
            relu,
        } = of;
        let dtype = self.activations();
        let split = Split::new(x.rows(), x.width(), dtype);
        let residual = residual.map(|r| self.read(OP, r, dtype)).transpose()?;
        let (y, y_at) = self.empty(x.shape(), dtype)?;
        let f32s = |t| self.read(OP, t, DType::F32);
        let (gamma, beta) = (f32s(gamma)?, f32s(beta)?);
        let (mean, variance) = (f32s(&moments.mean)?, f32s(&moments.variance)?);
        let x = self.read(OP, x, dtype)?;
        let arguments = BatchNormArguments {
            split,
            x: x.at(),
            gamma: gamma.at(),
            beta: beta.at(),
            mean: mean.at(),
            variance: variance.at(),
            residual: optional(&residual),
            y: y_at,
            eps,
            relu: relu.into(),
        };
        let kernel = instance!("batch_norm", "batch_norm", dtype);
        self.launch(kernel, split.launch(dtype), &arguments)?;
        Ok(y)
    }

    fn batch_norm_backward(
        &self,
        of: BatchNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
        dresidual: Slot,
    ) -> Result<()> {
        let BatchNormBackward {
            dy,
            x,
            y,
            gamma,
            moments,
            eps,
            of_batch,
        } = of;
        let (width, dtype) = (x.width(), self.activations());
        let split = Split::new(x.rows(), width, dtype);
        // What passed the ReLU is kept where the residual wants it, and then dx reads it in place of dy and y.
        let passed = match (&dresidual, y) {
            (Some(_), Some(_)) => Some(self.empty(x.shape(), dtype)?),
            _ => None,
        };
        let g_at = passed.as_ref().map_or(0, |(_, at)| *at);
        let f32s = |t| self.read(OP, t, DType::F32);
        let (gamma_in, mean, variance) =
            (f32s(gamma)?, f32s(&moments.mean)?, f32s(&moments.variance)?);
        let (dy_in, x_in) = (self.read(OP, dy, dtype)?, self.read(OP, x, dtype)?);
        let y = y.map(|y| self.read(OP, y, dtype)).transpose()?;
        let partials = self.allocate(split.partials())?;
        let arguments = SumsArguments {
            split,
            dy: dy_in.at(),
            x: x_in.at(),
            y: optional(&y),
            mean: mean.at(),
            g: g_at,
            partials: partials.at(),
        };
        let kernel = instance!("batch_norm", "batch_norm_sums", dtype);
        self.launch(kernel, split.launch(dtype), &arguments)?;

        let dgamma = self.target(OP, dgamma, gamma.shape(), DType::F32)?;
        let dbeta = self.target(OP, dbeta, gamma.shape(), DType::F32)?;
        let constants = self.allocate(3 * width * 4)?;
        let arguments = SumsFinishArguments {
            split,
            partials: partials.at(),
            gamma: gamma_in.at(),
            variance: variance.at(),
            dgamma: target_address(&dgamma),
            dbeta: target_address(&dbeta),
            constants: constants.at(),
            chunks: split.chunks() as i32,
            eps,
            add_dgamma: target_add(&dgamma),
            add_dbeta: target_add(&dbeta),
            of_batch: of_batch.into(),
            unused: 0,
        };
        let kernel = Kernel::new(OP, "batch_norm_sums_finish");
        self.launch(kernel, split.finish(), &arguments)?;

        let dx = self.target(OP, dx, x.shape(), dtype)?;
        if let Some(dx) = &dx {
            let (dy, y) = match g_at {
                0 => (dy_in.at(), optional(&y)),
                g => (g, 0),
            };
            let arguments = BatchNormBackwardArguments {
                split,
                dy,
                x: x_in.at(),
                y,
                mean: mean.at(),
                constants: constants.at(),
                dx: dx.at(),
                add: dx.add().into(),
                unused: 0,
            };
            let kernel = instance!("batch_norm", "batch_norm_backward", dtype);
            self.launch(kernel, split.launch(dtype), &arguments)?;
        }
        if let Some(slot) = dresidual {
            let g = passed.map_or_else(|| dy.clone(), |(g, _)| g);
            self.accumulate(slot, g)?;
        }
        done(self, [dx, dgamma, dbeta])
    }
}
