//! y = act(x Wᵀ + b) + residual, and y = x P: products of the device, activations of our own.
//!
//! The WGSL product is ours and applies activations to its result. cuBLASLt could apply a GELU and its gradient after a product, but only the tanh approximation, which is off by up to
//! 5e-4, and no QuickGELU. So there bias and residual are fused into products, and activations are passes of their own, which
//! in the backward pass make the bias's gradient as well. Where there is no activation, a pass over dy makes it: the
//! epilogue that could (BGRADB, on the product of the weight's gradient) overwrites where we add, and has been seen to
//! slow the training of a large model down (NVIDIA/CUDALibrarySamples, issue 90).

use super::column_sums::{self, Chunks};
use super::device::{Address, Fused, Launch, Matrix, Product};
use super::operand::{Target, done, optional};
use super::{Gpu, arguments, instance};
use crate::backend::{Activation, Linear, LinearBackward, LinearOutput, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "linear";

arguments! {
    struct ActivateArguments in "linear" {
        pre: Address,
        residual: Address,
        y: Address,
        n: i64,
        activation: u32,
        padding: i32,
    }

    struct ActivateBackwardArguments in "linear" {
        pre: Address,
        dy: Address,
        dpre: Address,
        partials: Address,
        rows: i64,
        chunk: i64,
        columns: i32,
        activation: u32,
    }
}

/// As `cuda/linear.cu` numbers them.
fn number(act: Activation) -> u32 {
    match act {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
    }
}

/// The matrix at `at` whose rows of `width` elements follow each other.
pub(super) fn matrix(at: Address, dtype: DType, width: usize) -> Matrix {
    Matrix {
        at,
        dtype,
        stride: width,
        transposed: false,
    }
}

pub(super) fn across(m: Matrix) -> Matrix {
    Matrix {
        transposed: true,
        ..m
    }
}

impl Linear for Gpu {
    fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        residual: Option<&Tensor>,
        act: Activation,
        keep_pre: bool,
    ) -> Result<LinearOutput> {
        let (rows, inner, out, dtype) = (x.rows(), x.width(), w.rows(), self.activations());
        let (x, w) = (self.read(OP, x, dtype)?, self.read(OP, w, dtype)?);
        let bias = b.map(|b| self.read(OP, b, dtype)).transpose()?;
        let residual = residual.map(|r| self.read(OP, r, dtype)).transpose()?;
        let (y, y_at) = self.empty(&[rows, out], dtype)?;
        let (pre, pre_at) = match keep_pre && act != Activation::None {
            true => self
                .empty(&[rows, out], dtype)
                .map(|(t, at)| (Some(t), at))?,
            false => (None, y_at),
        };
        let fuses = act != Activation::None && self.device.fuses();
        let apart = act != Activation::None && !fuses;
        let added = residual.as_ref().filter(|_| !apart);
        self.product(&Product {
            m: rows,
            n: out,
            k: inner,
            a: matrix(x.at(), dtype, inner),
            b: across(matrix(w.at(), dtype, inner)),
            c: added.map(|r| matrix(r.at(), dtype, out)),
            d: matrix(if fuses { y_at } else { pre_at }, dtype, out),
            bias: bias.as_ref().map(|b| b.at()),
            activation: fuses.then(|| Fused {
                number: number(act),
                pre: pre.as_ref().map(|_| pre_at),
            }),
        })?;
        if apart {
            let n = rows * out;
            launch_activate(self, pre_at, optional(&residual), y_at, n, act)?;
        }
        Ok(LinearOutput { y, pre })
    }

    fn linear_backward(&self, of: LinearBackward, dx: Slot, dw: Slot, db: Slot) -> Result<()> {
        let LinearBackward { dy, x, w, pre, act } = of;
        let (rows, inner, out, dtype) = (x.rows(), x.width(), w.rows(), self.activations());
        let (x_shape, w_shape) = (x.shape(), w.shape());
        let dy = self.read(OP, dy, dtype)?;
        let (x, w) = (self.read(OP, x, dtype)?, self.read(OP, w, dtype)?);
        let db = self.target(OP, db, &[out], DType::F32)?;
        let dpre;
        let dpre_at = match pre {
            None => {
                if let Some(db) = &db {
                    let (partials, count) =
                        column_sums::partials(self, dy.at(), dtype, rows, out, out)?;
                    column_sums::finish(self, partials.at(), count, out, out, db)?;
                }
                dy.at()
            }
            Some(pre) => {
                let pre = self.read(OP, pre, dtype)?;
                dpre = self.allocate(rows * out * dtype.size())?;
                activate_backward(self, pre.at(), dy.at(), dpre.at(), [rows, out], act, &db)?;
                dpre.at()
            }
        };
        let d = matrix(dpre_at, dtype, out);
        let dx = self.target(OP, dx, x_shape, dtype)?;
        let dw = self.target(OP, dw, w_shape, DType::F32)?;
        if let Some(dx) = &dx {
            let w = matrix(w.at(), dtype, inner);
            gradient(self, dx, dtype, [rows, inner, out], d, w)?;
        }
        if let Some(dw) = &dw {
            let x = matrix(x.at(), dtype, inner);
            gradient(self, dw, DType::F32, [out, inner, rows], across(d), x)?;
        }
        done(self, [dx, dw, db])
    }

    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor> {
        let dtype = self.activations();
        let (y, y_at) = self.empty(pre.shape(), dtype)?;
        let n = pre.len();
        let pre = self.read(OP, pre, dtype)?;
        launch_activate(self, pre.at(), 0, y_at, n, act)?;
        Ok(y)
    }
}

/// y = act(pre) + residual, of `n` elements; without a residual its address is 0.
fn launch_activate(
    gpu: &Gpu,
    pre: Address,
    residual: Address,
    y: Address,
    n: usize,
    act: Activation,
) -> Result<()> {
    let dtype = gpu.activations();
    let arguments = ActivateArguments {
        pre,
        residual,
        y,
        n: n as i64,
        activation: number(act),
        padding: 0,
    };
    let launch = Launch::spread(n, 256 * 16 / dtype.size());
    gpu.launch(instance!("linear", "activate", dtype), launch, &arguments)
}

/// dpre = dy ∘ act′(pre), and db from its columns' sums in the same pass.
fn activate_backward(
    gpu: &Gpu,
    pre: Address,
    dy: Address,
    dpre: Address,
    [rows, columns]: [usize; 2],
    act: Activation,
    db: &Option<Target>,
) -> Result<()> {
    let dtype = gpu.activations();
    let chunks = Chunks::new(rows, columns, dtype);
    let partials = match db {
        Some(_) => Some(chunks.partials(gpu, columns)?),
        None => None,
    };
    let arguments = ActivateBackwardArguments {
        pre,
        dy,
        dpre,
        partials: partials.as_ref().map_or(0, |p| p.at()),
        rows: rows as i64,
        chunk: chunks.rows,
        columns: columns as i32,
        activation: number(act),
    };
    let kernel = instance!("linear", "activate_backward", dtype);
    gpu.launch(kernel, chunks.launch, &arguments)?;
    match (partials, db) {
        (Some(partials), Some(db)) => {
            column_sums::finish(gpu, partials.at(), chunks.count, columns, columns, db)
        }
        _ => Ok(()),
    }
}

/// A product of [m, n, k] into the rows of a gradient of `dtype`, or onto them.
pub(super) fn gradient(
    gpu: &Gpu,
    target: &Target,
    dtype: DType,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
) -> Result<()> {
    let d = matrix(target.at(), dtype, n);
    gpu.product(&Product {
        m,
        n,
        k,
        a,
        b,
        c: target.add().then_some(d),
        d,
        bias: None,
        activation: None,
    })
}
