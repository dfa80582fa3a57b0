//! Table look-ups and their scatter.

use super::device::{Address, Kernel, Launch};
use super::operand::{Target, done};
use super::{Gpu, arguments, instance};
use crate::backend::{Embedding, EmbeddingBackward, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "embedding";

/// Blocks that share the rows of a scatter: as many of 256 threads as a large GPU runs at a time.
const SCATTER_BLOCKS: usize = 1024;

arguments! {
    struct EmbeddingArguments in "embedding" {
        table: Address,
        positions: Address,
        ids: Address,
        pos: Address,
        y: Address,
        rows: i64,
        width: i32,
        padding: i32,
    }

    struct ScatterArguments in "embedding", "select_rows" {
        dy: Address,
        table: Address,
        distinct: Address,
        rows: Address,
        starts: Address,
        order: Address,
        width: i32,
        add: i32,
    }
}

impl Embedding for Gpu {
    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor> {
        let (rows, width, dtype) = (ids.len(), table.width(), self.activations());
        let ids = self.read_index(OP, ids, table.rows())?;
        let pos = self.read_index(OP, pos, positions.rows())?;
        let table = self.read(OP, table, DType::F32)?;
        let positions = self.read(OP, positions, DType::F32)?;
        let (y, y_at) = self.empty(&[rows, width], dtype)?;
        let arguments = EmbeddingArguments {
            table: table.at(),
            positions: positions.at(),
            ids,
            pos,
            y: y_at,
            rows: rows as i64,
            width: width as i32,
            padding: 0,
        };
        let launch = Launch::spread(rows, 8);
        self.launch(
            instance!("embedding", "embedding", dtype),
            launch,
            &arguments,
        )?;
        Ok(y)
    }

    /// Both tables are parameters: their gradients are f32.
    fn embedding_backward(
        &self,
        of: EmbeddingBackward,
        dtable: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let EmbeddingBackward {
            dy,
            ids,
            pos,
            vocab,
            context,
        } = of;
        let (width, dtype) = (dy.width(), self.activations());
        let dy = self.read(OP, dy, dtype)?;
        let kernel = instance!("embedding", "embedding_backward", dtype);
        let from = (dy.at(), dtype);
        let dtable = self.target(OP, dtable, &[vocab, width], DType::F32)?;
        if let Some(target) = &dtable {
            scatter(self, kernel, from, ids, [vocab, width], target, DType::F32)?;
        }
        let dpositions = self.target(OP, dpositions, &[context, width], DType::F32)?;
        if let Some(target) = &dpositions {
            scatter(
                self,
                kernel,
                from,
                pos,
                [context, width],
                target,
                DType::F32,
            )?;
        }
        done(self, [dtable, dpositions])
    }
}

/// Row index_r of a table `[rows, width]` of `dtype` gathers row r of dy, for all r in order; `kernel` is the
/// instance of `cuda/scatter.cuh` from dy's element type to `dtype`.
pub(super) fn scatter(
    gpu: &Gpu,
    kernel: Kernel,
    (dy, from): (Address, DType),
    index: &Tensor,
    [rows, width]: [usize; 2],
    target: &Target,
    dtype: DType,
) -> Result<()> {
    let places = gpu.scatter(kernel.module, index, rows)?;
    // Rows without an index are zero.
    if !target.add() {
        gpu.device.clear(target.at(), rows * width * dtype.size())?;
    }
    let arguments = ScatterArguments {
        dy,
        table: target.at(),
        distinct: places.distinct(),
        rows: places.rows(),
        starts: places.starts(),
        order: places.order(),
        width: width as i32,
        add: target.add().into(),
    };
    let tiles = width.div_ceil(32 * 16 / from.size());
    let launch = Launch::blocks([index.len().min(SCATTER_BLOCKS), tiles, 1], 256);
    gpu.launch(kernel, launch, &arguments)
}
