//! Sums over rows, in two stages of fixed order: partial sums of chunks of rows, then their sum.

use super::device::{Address, Kernel, Launch};
use super::memory::Memory;
use super::operand::Target;
use super::{Gpu, arguments, instance};
use crate::backend::Result;
use crate::tensor::DType;

arguments! {
    struct FinishArguments in "column_sums" {
        partials: Address,
        sums: Address,
        stride: i64,
        count: i32,
        columns: i32,
        add: i32,
        padding: i32,
    }

    struct ColumnSumsArguments in "column_sums" {
        x: Address,
        partials: Address,
        rows: i64,
        chunk: i64,
        stride: i64,
        columns: i32,
        padding: i32,
    }
}

/// How a kernel that sums columns (`cuda/columns.cuh`) divides a matrix. Its shape alone decides, so that
/// the order of the sums does not depend on the device.
pub(super) struct Chunks {
    /// Of the kernel: tiles of columns, chunks of rows.
    pub(super) launch: Launch,
    /// Rows of a chunk.
    pub(super) rows: i64,
    /// Number of chunks.
    pub(super) count: usize,
}

impl Chunks {
    /// About a thousand blocks, none of fewer than 32 rows.
    pub(super) fn new(rows: usize, columns: usize, dtype: DType) -> Self {
        let tiles = columns.div_ceil(32 * 16 / dtype.size());
        let wanted = (1024 / tiles.max(1)).max(1);
        let each = rows.div_ceil(wanted).next_multiple_of(8).max(32);
        let count = rows.div_ceil(each);
        let launch = Launch::blocks([tiles, count, 1], 256);
        Self {
            launch,
            rows: each as i64,
            count,
        }
    }

    /// Memory for the partial sums.
    pub(super) fn partials(&self, gpu: &Gpu, columns: usize) -> Result<Memory> {
        gpu.allocate(self.count * columns * 4)
    }
}

/// The sums of `columns` columns of `count` lines of f32 partial sums, each `stride` after the last, go to
/// `target`.
pub(super) fn finish(
    gpu: &Gpu,
    partials: Address,
    count: usize,
    stride: usize,
    columns: usize,
    target: &Target,
) -> Result<()> {
    let kernel = Kernel::new("column_sums", "column_sums_finish");
    let launch = Launch::blocks([columns.div_ceil(32), 1, 1], 256);
    let arguments = FinishArguments {
        partials,
        sums: target.at(),
        stride: stride as i64,
        count: count as i32,
        columns: columns as i32,
        add: target.add().into(),
        padding: 0,
    };
    gpu.launch(kernel, launch, &arguments)
}

/// The partial sums of the first `columns` columns of x `[rows, stride]`, and the number of their lines.
pub(super) fn partials(
    gpu: &Gpu,
    x: Address,
    dtype: DType,
    rows: usize,
    stride: usize,
    columns: usize,
) -> Result<(Memory, usize)> {
    let chunks = Chunks::new(rows, columns, dtype);
    let partials = chunks.partials(gpu, columns)?;
    let arguments = ColumnSumsArguments {
        x,
        partials: partials.at(),
        rows: rows as i64,
        chunk: chunks.rows,
        stride: stride as i64,
        columns: columns as i32,
        padding: 0,
    };
    let kernel = instance!("column_sums", "column_sums", dtype);
    gpu.launch(kernel, chunks.launch, &arguments)?;
    Ok((partials, chunks.count))
}
