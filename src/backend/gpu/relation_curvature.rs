//! Second derivatives of a relation's cross-entropies: the rows' means of w − w_ii, and then panels of coefficients, which
//! are multiplied into the gradients of both sides.

use super::device::{Address, Kernel, Launch, Matrix, Product};
use super::memory::Memory;
use super::operand::{Target, done};
use super::relation::{Features, LogitsArgument, THREADS, TILE_ROWS, split};
use super::relation_backward::{PANEL, panels, tiles};
use super::sum::Partials;
use super::{Gpu, arguments};
use crate::backend::{HessianProduct, RelationCurvature, Result, Slot, Storage, shape_error};
use crate::tensor::DType;
use bytemuck::Zeroable;
use std::ops::Range;

const OP: &str = "relation_curvature";

arguments! {
    /// What makes the tiles of a and w.
    struct Products in "relation_curvature" {
        features: LogitsArgument,
        left: LogitsArgument,
        right: LogitsArgument,
    }

    struct RelationCurvatureMeanArguments in "relation_curvature" {
        products: Products,
        softmax: Address,
        partials: Address,
        own: Address,
        n: i32,
        m: i32,
        tiles: i32,
        padding: i32,
    }

    struct RelationCurvatureFinishArguments in "relation_curvature" {
        partials: Address,
        value: Address,
        own: Address,
        mean: Address,
        n: i32,
        splits: i32,
    }

    struct RelationCurvatureArguments in "relation_curvature" {
        products: Products,
        softmax: Address,
        value: Address,
        own: Address,
        mean: Address,
        curvature: Address,
        residual: Address,
        partials: Address,
        first_row: i32,
        row_end: i32,
        first_column: i32,
        column_end: i32,
        n: i32,
        coef: f32,
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { module: OP, entry }
}

/// w_ii and ρ_i = Σ_j P_ij w_ij − w_ii, f32 `[n]` each.
fn means(
    gpu: &Gpu,
    products: Products,
    (softmax, value): (Address, Address),
    (n, m): (usize, usize),
) -> Result<[Memory; 2]> {
    let (splits, tiles) = split(n, m);
    let partials = gpu.allocate(splits * n * 8)?;
    let (own, mean) = (gpu.allocate(n * 4)?, gpu.allocate(n * 4)?);
    let arguments = RelationCurvatureMeanArguments {
        products,
        softmax,
        partials: partials.at(),
        own: own.at(),
        n: n as i32,
        m: m as i32,
        tiles: tiles as i32,
        padding: 0,
    };
    let width = products.features.width as usize;
    let launch =
        Launch::blocks([n.div_ceil(TILE_ROWS), splits, 1], THREADS).of_work(6 * n * m * width);
    gpu.launch(kernel("relation_curvature_mean_f32"), launch, &arguments)?;
    let arguments = RelationCurvatureFinishArguments {
        partials: partials.at(),
        value,
        own: own.at(),
        mean: mean.at(),
        n: n as i32,
        splits: splits as i32,
    };
    let launch = Launch::blocks([n.div_ceil(256), 1, 1], 256);
    gpu.launch(kernel("relation_curvature_finish_f32"), launch, &arguments)?;
    Ok([own, mean])
}

/// The gradient of one side, gathered from panels.
struct Gathered<'a> {
    target: Option<Target<'a>>,
    /// Whether the rows of each panel hold anything yet.
    begun: Vec<bool>,
    side: usize,
    width: usize,
}

impl<'a> Gathered<'a> {
    fn new(target: Option<Target<'a>>, n: usize, side: usize, width: usize) -> Self {
        let add = target.as_ref().is_some_and(Target::add);
        Self {
            target,
            begun: vec![add; n.div_ceil(side)],
            side,
            width,
        }
    }

    /// The rows `rows` += panel · the rows `over` of `features`. The panel has `stride` columns and is read across
    /// where `transposed`.
    fn add(
        &mut self,
        gpu: &Gpu,
        rows: &Range<usize>,
        (panel, stride, transposed): (Address, usize, bool),
        features: Address,
        over: &Range<usize>,
    ) -> Result<()> {
        let Some(target) = &self.target else {
            return Ok(());
        };
        let at = |base: Address, row: usize| Matrix {
            at: base + 4 * (row * self.width) as u64,
            dtype: DType::F32,
            stride: self.width,
            transposed: false,
        };
        let d = at(target.at(), rows.start);
        let begun = &mut self.begun[rows.start / self.side];
        let c = begun.then_some(d);
        *begun = true;
        gpu.product(&Product {
            m: rows.len(),
            n: self.width,
            k: over.len(),
            a: Matrix {
                at: panel,
                dtype: DType::F32,
                stride,
                transposed,
            },
            b: at(features, over.start),
            c,
            d,
            bias: None,
            activation: None,
        })
    }
}

impl RelationCurvature for Gpu {
    fn relation_curvature(
        &self,
        of: HessianProduct,
        dx: Slot,
        dy: Slot,
        dscale: Slot,
    ) -> Result<()> {
        curvature_by(self, of, [dx, dy, dscale], PANEL)
    }
}

/// [`curvature`] with panels of `side` rows and columns, a multiple of the tile's.
fn curvature_by(
    gpu: &Gpu,
    of: HessianProduct,
    [dx, dy, dscale]: [Slot; 3],
    side: usize,
) -> Result<()> {
    let HessianProduct {
        logits,
        stats,
        tangent: (u, z),
        coef,
    } = of;
    if dx.is_none() && dy.is_none() && dscale.is_none() {
        return Ok(());
    }
    let features = Features::new(gpu, OP, logits)?;
    let (n, m, width) = (features.n, features.m, features.width);
    if m < n {
        return shape_error(OP, format!("{n} rows, but only {m} classes"));
    }
    for (what, tensor, shape) in [
        ("statistics", &stats.softmax, &[2, n][..]),
        ("values", &stats.value, &[n]),
        ("tangent", u, &[n, width]),
        ("tangent", z, &[m, width]),
    ] {
        if tensor.shape() != shape {
            let detail = format!("{what} {:?}, not {shape:?}", tensor.shape());
            return shape_error(OP, detail);
        }
    }
    let read = |t| gpu.read(OP, t, DType::F32);
    let (softmax, value) = (read(&stats.softmax)?, read(&stats.value)?);
    let (u, z) = (read(u)?, read(z)?);
    let products = Products {
        features: features.argument(),
        left: LogitsArgument::products(u.at(), features.y.at(), width),
        right: LogitsArgument::products(features.x.at(), z.at(), width),
    };
    let [own, mean] = means(gpu, products, (softmax.at(), value.at()), (n, m))?;

    let dx = gpu.target(OP, dx, &[n, width], DType::F32)?;
    let dy = gpu.target(OP, dy, &[m, width], DType::F32)?;
    let mut dx = Gathered::new(dx, n, side, width);
    let mut dy = Gathered::new(dy, m, side, width);
    let area = n.min(side) * m.min(side) * 4;
    let both = match dx.target.is_some() || dy.target.is_some() {
        true => Some([gpu.allocate(area)?, gpu.allocate(area)?]),
        false => None,
    };
    let met: Vec<_> = panels(n, side)
        .flat_map(|rows| panels(m, side).map(move |columns| (rows.clone(), columns)))
        .collect();
    let blocks = met
        .iter()
        .map(|(rows, columns)| tiles(rows, columns).iter().product::<usize>());
    let partials = match dscale {
        Some(_) => Some(Partials::new(gpu, blocks.sum())?),
        None => None,
    };
    let [curvature, residual] = both
        .as_ref()
        .map_or([0; 2], |both| both.each_ref().map(Memory::at));
    let mut arguments = RelationCurvatureArguments {
        products,
        softmax: softmax.at(),
        value: value.at(),
        own: own.at(),
        mean: mean.at(),
        curvature,
        residual,
        partials: partials.as_ref().map_or(0, Partials::at),
        n: n as i32,
        coef,
        ..RelationCurvatureArguments::zeroed()
    };
    for (rows, columns) in &met {
        arguments.first_row = rows.start as i32;
        arguments.row_end = rows.end as i32;
        arguments.first_column = columns.start as i32;
        arguments.column_end = columns.end as i32;
        let [across, down] = tiles(rows, columns);
        let work = 6 * rows.len() * columns.len() * width;
        let launch = Launch::blocks([across, down, 1], THREADS).of_work(work);
        gpu.launch(kernel("relation_curvature_f32"), launch, &arguments)?;
        if partials.is_some() {
            arguments.partials += 8 * (across * down) as u64;
        }
        let stride = columns.len();
        for (panel, other, own) in [
            (curvature, features.y.at(), features.x.at()),
            (residual, z.at(), u.at()),
        ] {
            dx.add(gpu, rows, (panel, stride, false), other, columns)?;
            dy.add(gpu, columns, (panel, stride, true), own, rows)?;
        }
    }
    if let (Some(partials), Some(slot)) = (partials, dscale) {
        let (sum, at) = gpu.empty(logits.scale.shape(), DType::F32)?;
        partials.finish(gpu, 1.0, at)?;
        gpu.accumulate(slot, sum)?;
    }
    done(gpu, [dx.target, dy.target])
}

#[cfg(test)]
mod tests {
    use super::super::relation_backward::tests::add_up;
    use super::*;
    use crate::backend::contract::*;
    use crate::require::{Part, require};
    use crate::tensor::Tensor;
    use crate::tensor::rng::{Philox, Purpose};

    /// Both gradients and the scale's, by panels of `side`, each onto a slot that is empty and then onto itself.
    fn gradients(
        gpu: &Gpu,
        logits: &Logits,
        stats: &RowStats,
        tangent: (&Tensor, &Tensor),
        side: usize,
    ) -> Vec<Vec<f32>> {
        let (mut dx, mut dy, mut dscale) = (None, None, None);
        for _ in 0..2 {
            let of = HessianProduct {
                logits,
                stats,
                tangent,
                coef: 0.1,
            };
            let slots = [Some(&mut dx), Some(&mut dy), Some(&mut dscale)];
            curvature_by(gpu, of, slots, side).expect("curvature");
        }
        let read = |t: Option<Tensor>| gpu.download(&t.expect("written")).expect("read");
        [dx, dy, dscale].map(read).to_vec()
    }

    #[test]
    fn panels_add_up_to_the_whole() {
        let found = crate::backend::cuda::emulated(false);
        let Some(gpu) = require(Part::Emulated, "gradients of curvature by panels", found) else {
            return;
        };
        let mut rng = Philox::new(2, Purpose::Test, 0, 0);
        let mut normal = |n: usize| {
            let x: Vec<f32> = (0..n * 5).map(|_| rng.normal()).collect();
            gpu.upload(&[n, 5], &x).expect("upload")
        };
        let (n, m) = (261, 300);
        let (x, y, u, z) = (normal(n), normal(m), normal(n), normal(m));
        let unit = |x: &Tensor| gpu.l2_normalize(x).expect("unit rows").0;
        let relation = Logits {
            x: unit(&x),
            y: unit(&y),
            scale: gpu.upload(&[1], &[14.3]).expect("upload"),
        };
        let pair = Pair {
            student: relation.clone(),
            teacher: None,
            skip_diagonal: false,
        };
        let stats = gpu.relation(&pair).expect("forward");
        let whole = gradients(&gpu, &relation, &stats, (&u, &z), PANEL);
        let parts = gradients(&gpu, &relation, &stats, (&u, &z), 128);
        for (part, whole) in parts.iter().zip(&whole) {
            add_up(part, whole, 0.1);
        }
    }
}
