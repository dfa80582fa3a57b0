//! Layer normalisation of rows.

use super::device::{Address, Kernel, Launch};
use super::operand::{done, target_add, target_address};
use super::{Gpu, arguments, column_sums, instance};
use crate::backend::{LayerNorm, LayerNormBackward, LayerNormOutput, Op, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "layer_norm";

/// Most blocks of the backward kernel: its partial sums stay small beside its operands.
const BACKWARD_BLOCKS: usize = 528;

arguments! {
    struct LayerNormArguments in "layer_norm" {
        x: Address,
        gamma: Address,
        beta: Address,
        y: Address,
        mean: Address,
        rstd: Address,
        rows: i64,
        width: i32,
        eps: f32,
    }

    struct LayerNormBackwardArguments in "layer_norm" {
        dy: Address,
        x: Address,
        gamma: Address,
        mean: Address,
        rstd: Address,
        dx: Address,
        partials: Address,
        rows: i64,
        width: i32,
        add: i32,
    }
}

/// The instances for rows of up to 512, 1024 and 8192 elements, and how many rows a block takes at a time.
struct Instance {
    forward: Kernel,
    backward: Kernel,
    rows: usize,
}

/// Elements of the longest row whose sums a block keeps in registers.
const MOST: usize = 8192;

/// Whether a block takes such rows, and which it takes.
pub(super) fn limit(shape: &[usize]) -> (bool, &'static str) {
    let fits = shape.last().is_none_or(|&width| width <= MOST);
    (fits, "rows of at most 8192 elements")
}

fn instance(width: usize, dtype: DType) -> Instance {
    let (forward, backward, rows) = match width {
        0..=512 => (
            instance!("layer_norm", "layer_norm_512", dtype),
            instance!("layer_norm", "layer_norm_backward_512", dtype),
            8,
        ),
        513..=1024 => (
            instance!("layer_norm", "layer_norm_1024", dtype),
            instance!("layer_norm", "layer_norm_backward_1024", dtype),
            8,
        ),
        _ => (
            instance!("layer_norm", "layer_norm_8192", dtype),
            instance!("layer_norm", "layer_norm_backward_8192", dtype),
            1,
        ),
    };
    Instance {
        forward,
        backward,
        rows,
    }
}

impl LayerNorm for Gpu {
    fn layer_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        eps: f32,
    ) -> Result<LayerNormOutput> {
        let (rows, width, dtype) = (x.rows(), x.width(), self.activations());
        self.check_size(Op::LayerNorm, x.shape())?;
        let instance = instance(width, dtype);
        let (x_in, gamma, beta) = (
            self.read(OP, x, dtype)?,
            self.read(OP, gamma, DType::F32)?,
            self.read(OP, beta, DType::F32)?,
        );
        let (y, y_at) = self.empty(x.shape(), dtype)?;
        let (mean, mean_at) = self.empty(&[rows], DType::F32)?;
        let (rstd, rstd_at) = self.empty(&[rows], DType::F32)?;
        let launch = Launch::blocks([rows.div_ceil(instance.rows), 1, 1], 256);
        let arguments = LayerNormArguments {
            x: x_in.at(),
            gamma: gamma.at(),
            beta: beta.at(),
            y: y_at,
            mean: mean_at,
            rstd: rstd_at,
            rows: rows as i64,
            width: width as i32,
            eps,
        };
        self.launch(instance.forward, launch, &arguments)?;
        Ok(LayerNormOutput { y, mean, rstd })
    }

    fn layer_norm_backward(
        &self,
        of: LayerNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
    ) -> Result<()> {
        let LayerNormBackward {
            dy,
            x,
            gamma,
            mean,
            rstd,
        } = of;
        let (rows, width, dtype) = (x.rows(), x.width(), self.activations());
        self.check_size(Op::LayerNorm, x.shape())?;
        let instance = instance(width, dtype);
        let (dy, xs) = (self.read(OP, dy, dtype)?, self.read(OP, x, dtype)?);
        let gamma_in = self.read(OP, gamma, DType::F32)?;
        let (mean, rstd) = (
            self.read(OP, mean, DType::F32)?,
            self.read(OP, rstd, DType::F32)?,
        );
        let dx = self.target(OP, dx, x.shape(), dtype)?;
        let dgamma = self.target(OP, dgamma, gamma.shape(), DType::F32)?;
        let dbeta = self.target(OP, dbeta, gamma.shape(), DType::F32)?;
        let blocks = rows.div_ceil(instance.rows).min(BACKWARD_BLOCKS);
        let partials = match dgamma.is_some() || dbeta.is_some() {
            true => Some(self.allocate(blocks * 2 * width * 4)?),
            false => None,
        };
        let launch = Launch::blocks([blocks, 1, 1], 256);
        let arguments = LayerNormBackwardArguments {
            dy: dy.at(),
            x: xs.at(),
            gamma: gamma_in.at(),
            mean: mean.at(),
            rstd: rstd.at(),
            dx: target_address(&dx),
            partials: partials.as_ref().map_or(0, |p| p.at()),
            rows: rows as i64,
            width: width as i32,
            add: target_add(&dx),
        };
        self.launch(instance.backward, launch, &arguments)?;
        if let Some(partials) = partials {
            let sum = |from, target| {
                let Some(target) = target else { return Ok(()) };
                column_sums::finish(self, from, blocks, 2 * width, width, target)
            };
            sum(partials.at(), dgamma.as_ref())?;
            sum(partials.at() + 4 * width as u64, dbeta.as_ref())?;
        }
        done(self, [dx, dgamma, dbeta])
    }
}
