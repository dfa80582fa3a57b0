//! Rows and columns out of a matrix, times their factors, in f32: they are weights.

use super::column_sums::{Chunks, finish};
use super::device::{Address, Kernel, Launch};
use super::storage::{Operand, done, optional};
use super::{Gpu, spread};
use crate::backend::{Result, Slot};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "submatrix";

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Submatrix {
    x: Address,
    dy: Address,
    rows: Address,
    columns: Address,
    r: Address,
    c: Address,
    out: Address,
    width: i64,
    height: i64,
    n: i32,
    add: u32,
    chunk: i64,
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { module: OP, entry }
}

/// A thread an element, by the grid's size.
fn elements(n: usize) -> Launch {
    Launch {
        grid: spread(n, 256),
        block: 256,
        shared: 0,
    }
}

fn read<'a>(gpu: &Gpu, t: Option<&'a Tensor>) -> Result<Option<Operand<'a>>> {
    t.map(|t| gpu.read(OP, t, DType::F32)).transpose()
}

pub(super) fn forward(
    gpu: &Gpu,
    x: &Tensor,
    (rows, columns): (&Tensor, &Tensor),
    (r, c): (Option<&Tensor>, Option<&Tensor>),
) -> Result<Tensor> {
    let (height, n) = (rows.len(), columns.len());
    let shape = match x.shape() {
        [_] => vec![n],
        _ => vec![height, n],
    };
    let (r, c) = (read(gpu, r)?, read(gpu, c)?);
    let (rows, columns) = (
        gpu.read_index(OP, rows, x.rows())?,
        gpu.read_index(OP, columns, x.width())?,
    );
    let (y, out) = gpu.empty(&shape, DType::F32)?;
    let width = x.width() as i64;
    let x = gpu.read(OP, x, DType::F32)?;
    let arguments = Submatrix {
        x: x.at(),
        dy: 0,
        rows,
        columns,
        r: optional(&r),
        c: optional(&c),
        out,
        width,
        height: height as i64,
        n: n as i32,
        add: 0,
        chunk: 0,
    };
    gpu.launch(kernel("submatrix_f32"), elements(height * n), &arguments)?;
    Ok(y)
}

pub(super) fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    (rows, columns): (&Tensor, &Tensor),
    (r, c): (Option<&Tensor>, Option<&Tensor>),
    (dx, dr, dc): (Slot, Slot, Slot),
) -> Result<()> {
    let (height, n) = (rows.len(), columns.len());
    let (r, c) = (read(gpu, r)?, read(gpu, c)?);
    let values = gpu.read(OP, x, DType::F32)?;
    let dy = gpu.read(OP, dy, DType::F32)?;
    let arguments = Submatrix {
        x: values.at(),
        dy: dy.at(),
        rows: gpu.read_index(OP, rows, x.rows())?,
        columns: gpu.read_index(OP, columns, x.width())?,
        r: optional(&r),
        c: optional(&c),
        out: 0,
        width: x.width() as i64,
        height: height as i64,
        n: n as i32,
        add: 0,
        chunk: 0,
    };
    let dx = gpu.target(OP, dx, x.shape(), DType::F32)?;
    if let Some(dx) = &dx {
        // Entries that nobody names are zero.
        if !dx.add() {
            gpu.device.clear(dx.at(), x.len() * DType::F32.size())?;
        }
        let arguments = Submatrix {
            out: dx.at(),
            ..arguments
        };
        let kernel = kernel("submatrix_backward_x_f32");
        gpu.launch(kernel, elements(height * n), &arguments)?;
    }
    let dr = gpu.target(OP, dr, &[height], DType::F32)?;
    if let Some(dr) = &dr {
        let arguments = Submatrix {
            out: dr.at(),
            add: dr.add().into(),
            ..arguments
        };
        let launch = Launch {
            grid: spread(height, 1),
            block: 256,
            shared: 0,
        };
        gpu.launch(kernel("submatrix_backward_r_f32"), launch, &arguments)?;
    }
    let dc = gpu.target(OP, dc, &[n], DType::F32)?;
    if let Some(dc) = &dc {
        let chunks = Chunks::new(height, n, DType::F32);
        let partials = chunks.partials(gpu, n)?;
        let arguments = Submatrix {
            out: partials.at(),
            chunk: chunks.rows,
            ..arguments
        };
        let kernel = kernel("submatrix_backward_c_f32");
        gpu.launch(kernel, chunks.launch, &arguments)?;
        finish(gpu, partials.at(), chunks.count, n, n, dc)?;
    }
    done(gpu, [dx, dr, dc])
}
