//! y = act(x Wᵀ + b) + residual, and y = x P: products of the device, activations of our own.
//!
//! cuBLASLt could apply a GELU and its gradient behind a product, but only the tanh approximation, which is off by up to
//! 5e-4, and no QuickGELU. So bias and residual are fused into products, and activations are passes of their own, which
//! in the backward pass make the bias's gradient as well. Where there is no activation, a pass over dy makes it: the
//! epilogue that could (BGRADB, on the product of the weight's gradient) overwrites where we add, and has been seen to
//! slow the training of a large model down (NVIDIA/CUDALibrarySamples, issue 90).

use super::column_sums::{self, Chunks};
use super::device::{Address, Launch, Matrix, Product};
use super::storage::{Target, done, optional};
use super::{Gpu, instance, spread};
use crate::backend::{Activation, Linear, Result, Slot};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "linear";

/// As `cuda/linear.cu` numbers them.
fn number(act: Activation) -> u32 {
    match act {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
    }
}

/// The matrix at `at` whose rows of `width` elements follow each other.
fn matrix(at: Address, dtype: DType, width: usize) -> Matrix {
    Matrix {
        at,
        dtype,
        stride: width,
        transposed: false,
    }
}

fn across(m: Matrix) -> Matrix {
    Matrix {
        transposed: true,
        ..m
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Activate {
    pre: Address,
    residual: Address,
    y: Address,
    n: i64,
    activation: u32,
    padding: u32,
}

pub(super) fn forward(
    gpu: &Gpu,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
    act: Activation,
    keep_pre: bool,
) -> Result<Linear> {
    let (rows, inner, out, dtype) = (x.rows(), x.width(), w.rows(), gpu.activations());
    let (x, w) = (gpu.read(OP, x, dtype)?, gpu.read(OP, w, dtype)?);
    let bias = b.map(|b| gpu.read(OP, b, dtype)).transpose()?;
    let residual = residual.map(|r| gpu.read(OP, r, dtype)).transpose()?;
    let (y, y_at) = gpu.empty(&[rows, out], dtype)?;
    let (pre, pre_at) = match keep_pre && act != Activation::None {
        true => gpu
            .empty(&[rows, out], dtype)
            .map(|(t, at)| (Some(t), at))?,
        false => (None, y_at),
    };
    let added = residual.as_ref().filter(|_| act == Activation::None);
    gpu.product(&Product {
        m: rows,
        n: out,
        k: inner,
        a: matrix(x.at(), dtype, inner),
        b: across(matrix(w.at(), dtype, inner)),
        c: added.map(|r| matrix(r.at(), dtype, out)),
        d: matrix(pre_at, dtype, out),
        bias: bias.as_ref().map(|b| b.at()),
    })?;
    if act != Activation::None {
        let n = rows * out;
        launch_activate(gpu, pre_at, optional(&residual), y_at, n, act)?;
    }
    Ok(Linear { y, pre })
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
    let arguments = Activate {
        pre,
        residual,
        y,
        n: n as i64,
        activation: number(act),
        padding: 0,
    };
    let launch = Launch {
        grid: spread(n, 256 * 16 / dtype.size()),
        block: 256,
        shared: 0,
    };
    gpu.launch(instance!("linear", "activate", dtype), launch, &arguments)
}

pub(super) fn activate(gpu: &Gpu, pre: &Tensor, act: Activation) -> Result<Tensor> {
    let dtype = gpu.activations();
    let (y, y_at) = gpu.empty(pre.shape(), dtype)?;
    let n = pre.len();
    let pre = gpu.read(OP, pre, dtype)?;
    launch_activate(gpu, pre.at(), 0, y_at, n, act)?;
    Ok(y)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ActivateBackward {
    pre: Address,
    dy: Address,
    dpre: Address,
    partials: Address,
    rows: i64,
    chunk: i64,
    columns: i32,
    activation: u32,
}

pub(super) fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    pre: Option<&Tensor>,
    act: Activation,
    dx: Slot,
    dw: Slot,
    db: Slot,
) -> Result<()> {
    let (rows, inner, out, dtype) = (x.rows(), x.width(), w.rows(), gpu.activations());
    let (x_shape, w_shape) = (x.shape(), w.shape());
    let dy = gpu.read(OP, dy, dtype)?;
    let (x, w) = (gpu.read(OP, x, dtype)?, gpu.read(OP, w, dtype)?);
    let db = gpu.target(OP, db, &[out], DType::F32)?;
    let dpre;
    let dpre_at = match pre {
        None => {
            if let Some(db) = &db {
                let (partials, count) = column_sums::partials(gpu, dy.at(), dtype, rows, out, out)?;
                column_sums::finish(gpu, partials.at(), count, out, out, db)?;
            }
            dy.at()
        }
        Some(pre) => {
            let pre = gpu.read(OP, pre, dtype)?;
            dpre = gpu.allocate(rows * out * dtype.size())?;
            activate_backward(gpu, pre.at(), dy.at(), dpre.at(), [rows, out], act, &db)?;
            dpre.at()
        }
    };
    let d = matrix(dpre_at, dtype, out);
    let dx = gpu.target(OP, dx, x_shape, dtype)?;
    let dw = gpu.target(OP, dw, w_shape, DType::F32)?;
    if let Some(dx) = &dx {
        let w = matrix(w.at(), dtype, inner);
        gradient(gpu, dx, dtype, [rows, inner, out], d, w)?;
    }
    if let Some(dw) = &dw {
        let x = matrix(x.at(), dtype, inner);
        gradient(gpu, dw, DType::F32, [out, inner, rows], across(d), x)?;
    }
    done(gpu, [dx, dw, db])
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
    let arguments = ActivateBackward {
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
fn gradient(
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
    })
}

pub(super) fn matmul(gpu: &Gpu, x: &Tensor, p: &Tensor) -> Result<Tensor> {
    const OP: &str = "matmul";
    let (rows, inner, out, dtype) = (x.rows(), x.width(), p.width(), gpu.activations());
    let (x, p) = (gpu.read(OP, x, dtype)?, gpu.read(OP, p, dtype)?);
    let (y, y_at) = gpu.empty(&[rows, out], dtype)?;
    gpu.product(&Product {
        m: rows,
        n: out,
        k: inner,
        a: matrix(x.at(), dtype, inner),
        b: matrix(p.at(), dtype, out),
        c: None,
        d: matrix(y_at, dtype, out),
        bias: None,
    })?;
    Ok(y)
}

pub(super) fn matmul_backward(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    p: &Tensor,
    dx: Slot,
    dp: Slot,
) -> Result<()> {
    const OP: &str = "matmul";
    let (rows, inner, out, dtype) = (x.rows(), x.width(), p.width(), gpu.activations());
    let dx = gpu.target(OP, dx, x.shape(), dtype)?;
    let dp = gpu.target(OP, dp, p.shape(), DType::F32)?;
    let dy = gpu.read(OP, dy, dtype)?;
    let (x, p) = (gpu.read(OP, x, dtype)?, gpu.read(OP, p, dtype)?);
    let dy = matrix(dy.at(), dtype, out);
    if let Some(dx) = &dx {
        let p = across(matrix(p.at(), dtype, out));
        gradient(gpu, dx, dtype, [rows, inner, out], dy, p)?;
    }
    if let Some(dp) = &dp {
        let x = across(matrix(x.at(), dtype, inner));
        gradient(gpu, dp, DType::F32, [inner, out, rows], x, dy)?;
    }
    done(gpu, [dx, dp])
}
