//! Rows and columns out of a matrix, times their factors, in f32: they are weights.

use super::column_sums::{Chunks, finish};
use super::device::{Address, Kernel, Launch};
use super::operand::{Operand, done, optional};
use super::{Gpu, arguments};
use crate::backend::{Result, Selection, Slot, Submatrix};
use crate::tensor::{DType, Tensor};

const OP: &str = "submatrix";

arguments! {
    struct SubmatrixArguments in "submatrix" {
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
        add: i32,
        chunk: i64,
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { module: OP, entry }
}

/// A thread an element, by the grid's size.
fn elements(n: usize) -> Launch {
    Launch::spread(n, 256)
}

fn read<'a>(gpu: &Gpu, t: Option<&'a Tensor>) -> Result<Option<Operand<'a>>> {
    t.map(|t| gpu.read(OP, t, DType::F32)).transpose()
}

impl Submatrix for Gpu {
    fn submatrix(&self, of: Selection) -> Result<Tensor> {
        let Selection {
            x,
            rows,
            columns,
            r,
            c,
        } = of;
        let (height, n) = (rows.len(), columns.len());
        let shape = match x.shape() {
            [_] => vec![n],
            _ => vec![height, n],
        };
        let (r, c) = (read(self, r)?, read(self, c)?);
        let (rows, columns) = (
            self.read_index(OP, rows, x.rows())?,
            self.read_index(OP, columns, x.width())?,
        );
        let (y, out) = self.empty(&shape, DType::F32)?;
        let width = x.width() as i64;
        let x = self.read(OP, x, DType::F32)?;
        let arguments = SubmatrixArguments {
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
        self.launch(kernel("submatrix_f32"), elements(height * n), &arguments)?;
        Ok(y)
    }

    fn submatrix_backward(
        &self,
        dy: &Tensor,
        of: Selection,
        dx: Slot,
        dr: Slot,
        dc: Slot,
    ) -> Result<()> {
        let Selection {
            x,
            rows,
            columns,
            r,
            c,
        } = of;
        let (height, n) = (rows.len(), columns.len());
        let (r, c) = (read(self, r)?, read(self, c)?);
        let values = self.read(OP, x, DType::F32)?;
        let dy = self.read(OP, dy, DType::F32)?;
        let arguments = SubmatrixArguments {
            x: values.at(),
            dy: dy.at(),
            rows: self.read_index(OP, rows, x.rows())?,
            columns: self.read_index(OP, columns, x.width())?,
            r: optional(&r),
            c: optional(&c),
            out: 0,
            width: x.width() as i64,
            height: height as i64,
            n: n as i32,
            add: 0,
            chunk: 0,
        };
        let dx = self.target(OP, dx, x.shape(), DType::F32)?;
        if let Some(dx) = &dx {
            // Entries not selected are zero.
            if !dx.add() {
                self.device.clear(dx.at(), x.len() * DType::F32.size())?;
            }
            let arguments = SubmatrixArguments {
                out: dx.at(),
                ..arguments
            };
            let kernel = kernel("submatrix_backward_x_f32");
            self.launch(kernel, elements(height * n), &arguments)?;
        }
        let dr = self.target(OP, dr, &[height], DType::F32)?;
        if let Some(dr) = &dr {
            let arguments = SubmatrixArguments {
                out: dr.at(),
                add: dr.add().into(),
                ..arguments
            };
            let launch = Launch::spread(height, 1);
            self.launch(kernel("submatrix_backward_r_f32"), launch, &arguments)?;
        }
        let dc = self.target(OP, dc, &[n], DType::F32)?;
        if let Some(dc) = &dc {
            let chunks = Chunks::new(height, n, DType::F32);
            let partials = chunks.partials(self, n)?;
            let arguments = SubmatrixArguments {
                out: partials.at(),
                chunk: chunks.rows,
                ..arguments
            };
            let kernel = kernel("submatrix_backward_c_f32");
            self.launch(kernel, chunks.launch, &arguments)?;
            finish(self, partials.at(), chunks.count, n, n, dc)?;
        }
        done(self, [dx, dr, dc])
    }
}
