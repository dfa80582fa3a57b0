//! Gradients of the similarity losses: panels of coefficients, each multiplied into the gradient at once.

use super::device::{Address, Kernel, Launch, Matrix, Product};
use super::operand::{Operand, done, optional};
use super::relation::{LogitsArgument, Operands, THREADS, TILE_COLUMNS, TILE_ROWS};
use super::sum::Partials;
use super::{Gpu, arguments};
use crate::backend::{Pair, RelationBackward, Result, Side, Slot, Storage, shape_error};
use crate::tensor::DType;
use bytemuck::Zeroable;
use std::ops::Range;

const OP: &str = "relation_backward";

/// Rows and columns of a panel: 64 MiB, which keep a GPU busy.
pub(super) const PANEL: usize = 4096;

arguments! {
    #[derive(PartialEq)]
    struct DirectionArgument in "relation_backward" {
        softmax: Address,
        teacher_softmax: Address,
        value: Address,
        coef: Address,
        n: i64,
    }

    struct RelationBackwardArguments in "relation_backward" {
        student: LogitsArgument,
        teacher: LogitsArgument,
        row: DirectionArgument,
        column: DirectionArgument,
        panel: Address,
        partials: Address,
        first_row: i32,
        row_end: i32,
        first_column: i32,
        column_end: i32,
        skip_diagonal: i32,
        symmetric: i32,
        mirrored: i32,
        padding: i32,
    }
}

/// A [`Side`]'s memory.
struct Direction<'a> {
    softmax: Operand<'a>,
    teacher_softmax: Option<Operand<'a>>,
    value: Operand<'a>,
    coef: Operand<'a>,
    rows: usize,
}

impl<'a> Direction<'a> {
    /// `rows` is the number of this direction's anchors.
    fn new(gpu: &Gpu, side: &'a Side, rows: usize, teacher: bool) -> Result<Self> {
        let teacher_softmax = side.stats.teacher_softmax.as_ref().filter(|_| teacher);
        if teacher && teacher_softmax.is_none() {
            return shape_error(OP, "no teacher statistics for the backward");
        }
        let all = [Some(&side.stats.softmax), teacher_softmax];
        if let Some(wrong) = all.into_iter().flatten().find(|t| t.shape() != [2, rows]) {
            let detail = format!("statistics {:?} for {rows} rows", wrong.shape());
            return shape_error(OP, detail);
        }
        for (what, tensor) in [("values", &side.stats.value), ("coefficients", &side.coef)] {
            if tensor.len() != rows {
                return shape_error(OP, format!("{} {what} for {rows} rows", tensor.len()));
            }
        }
        let read = |t| gpu.read(OP, t, DType::F32);
        Ok(Self {
            softmax: read(&side.stats.softmax)?,
            teacher_softmax: teacher_softmax.map(read).transpose()?,
            value: read(&side.stats.value)?,
            coef: read(&side.coef)?,
            rows,
        })
    }

    fn argument(&self) -> DirectionArgument {
        DirectionArgument {
            softmax: self.softmax.at(),
            teacher_softmax: optional(&self.teacher_softmax),
            value: self.value.at(),
            coef: self.coef.at(),
            n: self.rows as i64,
        }
    }
}

/// 0 to `n` in panels' lengths.
pub(super) fn panels(n: usize, side: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n)
        .step_by(side)
        .map(move |start| start..n.min(start + side))
}

/// How many tiles a panel has.
pub(super) fn tiles(rows: &Range<usize>, columns: &Range<usize>) -> [usize; 2] {
    [
        columns.len().div_ceil(TILE_COLUMNS),
        rows.len().div_ceil(TILE_ROWS),
    ]
}

impl RelationBackward for Gpu {
    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()> {
        backward_by(self, pair, row, col, dx, dscale, PANEL)
    }
}

/// [`backward`] with panels of `side` rows and columns, a multiple of the tile's.
fn backward_by(
    gpu: &Gpu,
    pair: &Pair,
    row: &Side,
    col: Option<&Side>,
    dx: Slot,
    dscale: Slot,
    side: usize,
) -> Result<()> {
    if dx.is_none() && dscale.is_none() {
        return Ok(());
    }
    let operands = Operands::new(gpu, OP, pair)?;
    let (n, m, width) = (operands.n, operands.m, operands.width);
    let teacher = pair.teacher.is_some();
    let row = Direction::new(gpu, row, n, teacher)?;
    let col = col
        .map(|c| Direction::new(gpu, c, m, teacher))
        .transpose()?;
    let column = col.as_ref().map(Direction::argument);
    let symmetric = operands.symmetric() && column == Some(row.argument());
    let met: Vec<_> = panels(n, side)
        .flat_map(|rows| panels(m, side).map(move |columns| (rows.clone(), columns)))
        .filter(|(rows, columns)| !symmetric || columns.start >= rows.start)
        .collect();

    let dx = gpu.target(OP, dx, &[n, width], DType::F32)?;
    let panel = match dx {
        Some(_) => Some(gpu.allocate(n.min(side) * m.min(side) * 4)?),
        None => None,
    };
    let blocks = met
        .iter()
        .map(|(rows, columns)| tiles(rows, columns).iter().product::<usize>());
    let partials = match dscale {
        Some(_) => Some(Partials::new(gpu, blocks.sum())?),
        None => None,
    };

    let (student, teacher) = operands.arguments();
    let mut arguments = RelationBackwardArguments {
        student,
        teacher,
        row: row.argument(),
        column: column.unwrap_or(DirectionArgument::zeroed()),
        panel: panel.as_ref().map_or(0, |p| p.at()),
        partials: partials.as_ref().map_or(0, Partials::at),
        skip_diagonal: pair.skip_diagonal.into(),
        symmetric: symmetric.into(),
        ..RelationBackwardArguments::zeroed()
    };
    let entry = match &pair.teacher {
        Some(_) => "relation_backward_teacher_f32",
        None => "relation_backward_f32",
    };
    let kernel = Kernel::new("relation_backward", entry);
    // Whether the gradient's rows of each panel hold anything yet.
    let mut begun = vec![dx.as_ref().is_some_and(|dx| dx.add()); n.div_ceil(side)];
    for (rows, columns) in &met {
        arguments.first_row = rows.start as i32;
        arguments.row_end = rows.end as i32;
        arguments.first_column = columns.start as i32;
        arguments.column_end = columns.end as i32;
        arguments.mirrored = (symmetric && rows == columns).into();
        let [x, y] = tiles(rows, columns);
        let work = 2 * rows.len() * columns.len() * operands.widths();
        let launch = Launch::blocks([x, y, 1], THREADS).of_work(work);
        gpu.launch(kernel, launch, &arguments)?;
        if partials.is_some() {
            arguments.partials += 8 * (x * y) as u64;
        }
        let Some(dx) = &dx else { continue };
        let at = |base: Address, row: usize| Matrix {
            at: base + 4 * (row * width) as u64,
            dtype: DType::F32,
            stride: width,
            transposed: false,
        };
        // dx of the rows += α C y of the columns; of a symmetric C, across as well.
        let mut multiply = |rows: &Range<usize>, columns: &Range<usize>, transposed| {
            let begun = &mut begun[rows.start / side];
            let d = at(dx.at(), rows.start);
            let c = begun.then_some(d);
            *begun = true;
            gpu.product(&Product {
                m: rows.len(),
                n: width,
                k: columns.len(),
                a: Matrix {
                    at: arguments.panel,
                    dtype: DType::F32,
                    stride: (arguments.column_end - arguments.first_column) as usize,
                    transposed,
                },
                b: at(operands.y(), columns.start),
                c,
                d,
                bias: None,
                activation: None,
            })
        };
        multiply(rows, columns, false)?;
        if symmetric && rows != columns {
            multiply(columns, rows, true)?;
        }
    }
    if let (Some(partials), Some(slot)) = (partials, dscale) {
        let (sum, at) = gpu.empty(pair.student.scale.shape(), DType::F32)?;
        partials.finish(gpu, 1.0, at)?;
        gpu.accumulate(slot, sum)?;
    }
    done(gpu, [dx])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backend::contract::*;
    use crate::require::{Part, require};
    use crate::tensor::Tensor;
    use crate::tensor::rng::{Philox, Purpose};

    /// The gradient of the anchors and of the scale, by panels of `side`, each onto a slot that is empty and then
    /// onto itself.
    fn gradients(gpu: &Gpu, pair: &Pair, row: &Side, col: Option<&Side>, side: usize) -> Vec<f32> {
        let (mut dx, mut dscale) = (None, None);
        for _ in 0..2 {
            let (dx, dscale) = (Some(&mut dx), Some(&mut dscale));
            backward_by(gpu, pair, row, col, dx, dscale, side).expect("backward");
        }
        let mut alone = None;
        backward_by(gpu, pair, row, col, None, Some(&mut alone), side).expect("dscale alone");
        let read = |t: &Option<Tensor>| gpu.download(t.as_ref().expect("written")).expect("read");
        [read(&dx), read(&dscale), read(&alone)].concat()
    }

    #[test]
    fn panels_add_up_to_the_whole() {
        let found = crate::backend::cuda::emulated(false);
        let Some(gpu) = require(Part::Emulated, "gradients of a relation by panels", found) else {
            return;
        };
        let mut rng = Philox::new(1, Purpose::Test, 0, 0);
        let mut unit = |n: usize| {
            let x: Vec<f32> = (0..n * 5).map(|_| rng.normal()).collect();
            let x = gpu.upload(&[n, 5], &x).expect("upload");
            gpu.l2_normalize(&x).expect("unit rows").0
        };
        let (n, m) = (300, 261);
        let (x, y, z, w) = (unit(n), unit(n), unit(m), unit(m));
        let scale = gpu.upload(&[1], &[14.3]).expect("upload");
        let relation = |x: &Tensor, y: &Tensor| Logits {
            x: x.clone(),
            y: y.clone(),
            scale: scale.clone(),
        };
        let side = |student: Logits, teacher: Logits, skip_diagonal: bool| {
            let n = student.x.rows();
            let pair = Pair {
                student,
                teacher: Some(teacher),
                skip_diagonal,
            };
            let coef: Vec<f32> = (0..n).map(|i| 0.1 + i as f32 / n as f32).collect();
            let coef = gpu.upload(&[n], &coef).expect("upload");
            let stats = gpu.relation(&pair).expect("forward");
            (pair, Side { stats, coef })
        };
        let (intra, own) = side(relation(&x, &x), relation(&y, &y), true);
        let (cross, row) = side(relation(&x, &z), relation(&y, &w), false);
        let (_, col) = side(relation(&z, &x), relation(&w, &y), false);
        for (pair, row, col) in [
            (&intra, &own, Some(&own)),
            (&cross, &row, Some(&col)),
            (&cross, &row, None),
        ] {
            let whole = gradients(&gpu, pair, row, col, PANEL);
            add_up(&gradients(&gpu, pair, row, col, 128), &whole, 1.0);
        }
    }

    /// Whether a gradient by panels is the one at once, whose largest entry is more than `least`.
    pub(in crate::backend) fn add_up(parts: &[f32], whole: &[f32], least: f32) {
        let largest = whole.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest > least, "nothing to compare");
        assert_eq!(parts.len(), whole.len());
        for (part, whole) in parts.iter().zip(whole) {
            let off = (part - whole).abs();
            assert!(off <= 1e-5 * largest, "{part} by panels, {whole} at once");
        }
    }
}
