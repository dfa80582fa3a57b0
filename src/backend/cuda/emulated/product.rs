//! Matrix products by plain loops: what cuBLASLt is asked for, summed in f32 in the order of k.

use super::memory::Memory;
use crate::backend::gpu::device::{Address, Matrix, Product};
use crate::backend::{Error, Result, shape_error};
use crate::tensor::DType;
use half::bf16;

const OP: &str = "product";
/// Rows and columns of the part of D that stays in registers.
const TILE: (usize, usize) = (4, 16);
/// Multiplications above which further threads help.
const WORTH_A_WORKER: usize = 1 << 20;

/// Elements from the first to the last of a stored matrix.
fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * stride + columns
    }
}

fn values(memory: &Memory, at: Address, dtype: DType, count: usize) -> Result<Vec<f32>> {
    let bytes = memory.bytes(at, count * dtype.size())?;
    match dtype {
        DType::F32 => Ok(bytemuck::pod_collect_to_vec(bytes)),
        DType::BF16 => {
            let low = bytemuck::pod_collect_to_vec::<u8, bf16>(bytes);
            Ok(low.into_iter().map(bf16::to_f32).collect())
        }
        got => Err(Error::DType {
            op: OP,
            expected: DType::F32,
            got,
        }),
    }
}

/// A matrix of `rows` × `columns` after its transposition, packed row by row.
fn packed(memory: &Memory, m: &Matrix, rows: usize, columns: usize) -> Result<Vec<f32>> {
    let (stored_rows, stored_columns) = if m.transposed {
        (columns, rows)
    } else {
        (rows, columns)
    };
    if m.stride < stored_columns {
        return shape_error(
            OP,
            format!("stride {} under rows of {stored_columns}", m.stride),
        );
    }
    let stored = values(
        memory,
        m.at,
        m.dtype,
        extent(stored_rows, stored_columns, m.stride),
    )?;
    let mut out = Vec::with_capacity(rows * columns);
    for r in 0..rows {
        if m.transposed {
            out.extend((0..columns).map(|c| stored[c * m.stride + r]));
        } else {
            out.extend_from_slice(&stored[r * m.stride..][..columns]);
        }
    }
    Ok(out)
}

/// d += a b for some rows of d and a.
#[inline(always)]
fn rows_of_product(d: &mut [f32], a: &[f32], b: &[f32], n: usize, k: usize) {
    const R: usize = TILE.0;
    const C: usize = TILE.1;
    for (d, a) in d.chunks_mut(R * n).zip(a.chunks(R * k)) {
        let rows = d.len() / n;
        for first in (0..n).step_by(C) {
            let width = C.min(n - first);
            let mut sum = [[0.0; C]; R];
            for p in 0..k {
                let mut row = [0.0; C];
                row[..width].copy_from_slice(&b[p * n + first..][..width]);
                for (r, sum) in sum.iter_mut().enumerate().take(rows) {
                    let x = a[r * k + p];
                    for (s, y) in sum.iter_mut().zip(&row) {
                        *s += x * y;
                    }
                }
            }
            for (r, sum) in sum.iter().enumerate().take(rows) {
                for (d, s) in d[r * n + first..][..width].iter_mut().zip(sum) {
                    *d += s;
                }
            }
        }
    }
}

pub(super) fn product(memory: &mut Memory, p: &Product, workers: usize) -> Result<()> {
    let (m, n, k) = (p.m, p.n, p.k);
    if p.d.transposed || p.c.is_some_and(|c| c.transposed) {
        return shape_error(OP, "C and D are taken as stored");
    }
    let expect = |expected, got| {
        if expected == got {
            Ok(())
        } else {
            Err(Error::DType {
                op: OP,
                expected,
                got,
            })
        }
    };
    expect(p.a.dtype, p.b.dtype)?;
    if let Some(c) = &p.c {
        expect(p.d.dtype, c.dtype)?;
    }
    if p.d.stride < n {
        return shape_error(OP, format!("stride {} under rows of {n}", p.d.stride));
    }
    let a = packed(memory, &p.a, m, k)?;
    let b = packed(memory, &p.b, k, n)?;
    let mut d = match &p.c {
        Some(c) => packed(memory, c, m, n)?,
        None => vec![0.0; m * n],
    };
    if let Some(bias) = p.bias {
        let bias = values(memory, bias, p.d.dtype, n)?;
        for row in d.chunks_mut(n.max(1)) {
            for (d, b) in row.iter_mut().zip(&bias) {
                *d += b;
            }
        }
    }
    if n > 0 && k > 0 && m > 0 {
        let workers = workers.min((m * n * k).div_ceil(WORTH_A_WORKER));
        let share = m.div_ceil(workers).next_multiple_of(TILE.0);
        std::thread::scope(|scope| {
            for (d, a) in d.chunks_mut(share * n).zip(a.chunks(share * k)) {
                let b = &b;
                let mut work = move || {
                    pulp::Arch::new().dispatch(
                        #[inline(always)]
                        || rows_of_product(d, a, b, n, k),
                    );
                };
                if workers == 1 {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
    }
    let size = p.d.dtype.size();
    let out = memory.bytes_mut(p.d.at, extent(m, n, p.d.stride) * size)?;
    for (out, d) in out
        .chunks_mut(p.d.stride.max(1) * size)
        .zip(d.chunks(n.max(1)))
    {
        for (out, &d) in out.chunks_exact_mut(size).zip(d) {
            match p.d.dtype {
                DType::BF16 => out.copy_from_slice(&bf16::from_f32(d).to_ne_bytes()),
                _ => out.copy_from_slice(&d.to_ne_bytes()),
            }
        }
    }
    Ok(())
}
