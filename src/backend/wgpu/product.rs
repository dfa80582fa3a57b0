//! Matrix products: which kernel of `shaders/product.wgsl` takes one.

use super::NAME;
use crate::backend::gpu::arguments::arguments;
use crate::backend::gpu::device::{Address, Kernel, Launch, Matrix, Product};
use crate::backend::{Result, device_error};
use crate::tensor::DType;

arguments! {
    pub(super) struct ProductArguments in "product", "cooperative" {
        left: Address,
        right: Address,
        addend: Address,
        out: Address,
        bias: Address,
        /// What goes into the activation, of D's type and stride.
        pre: Address,
        m: i64,
        n: i64,
        k: i64,
        left_stride: i64,
        right_stride: i64,
        addend_stride: i64,
        out_stride: i64,
        /// Whether the product is added to what `out` holds.
        add: i32,
        /// Of a linear layer; 0 for none.
        activation: u32,
        /// Steps of the sums that a workgroup takes.
        each: u32,
        padding: i32,
    }

    pub(super) struct ProductSumArguments in "product" {
        parts: Address,
        out: Address,
        n: i64,
        count: u32,
        add: i32,
    }
}

/// Fewer tiles than this leave a large GPU idle.
const FEW: usize = 256;
/// Steps of the sums that are worth a workgroup of their own.
const SHARE: usize = 512;

/// From this many elements of the result on, its tiles are of 128 × 128: enough of them to fill a GPU.
const LARGE: usize = 64 * 128 * 128;

/// What a workgroup makes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    /// 64 × 64, through workgroup memory.
    Of64,
    /// 128 × 128, through workgroup memory.
    Of128,
    /// 128 × 64, between the lanes of subgroups of 8: for adapters that run on a processor.
    Lanes,
}

/// The entry for the transpositions (`n` or `t`), the width of accesses, the tile and the element types.
macro_rules! entries {
    ($sides:literal $wide:expr, $tile:expr, $from:expr, $to:expr) => {
        match ($wide, $tile) {
            (true, Tile::Of64) => entries!($sides "_wide_64" $from, $to),
            (true, Tile::Of128) => entries!($sides "_wide_128" $from, $to),
            (true, Tile::Lanes) => entries!($sides "_wide_lanes" $from, $to),
            (false, Tile::Of64) => entries!($sides "_narrow_64" $from, $to),
            (false, Tile::Of128) => entries!($sides "_narrow_128" $from, $to),
            (false, Tile::Lanes) => entries!($sides "_narrow_lanes" $from, $to),
        }
    };
    ($sides:literal $end:literal $from:expr, $to:expr) => {
        match ($from, $to) {
            (DType::F32, DType::F32) => Some(concat!("product_", $sides, $end, "_f32_f32")),
            (DType::F16, DType::F32) => Some(concat!("product_", $sides, $end, "_f16_f32")),
            (DType::F16, DType::F16) => Some(concat!("product_", $sides, $end, "_f16_f16")),
            _ => None,
        }
    };
}

/// Whether rows of `length` elements can be moved four at a time.
fn wide(at: Address, dtype: DType, stride: usize, length: usize) -> bool {
    let unit = 4 * dtype.size() as u64;
    stride.is_multiple_of(4) && length.is_multiple_of(4) && at.is_multiple_of(unit)
}

/// The kernel of a product, its launch and its struct, for an adapter whose subgroups are
/// [registers of a processor](super::source::Lanes::in_a_register) or not.
pub(super) fn launch(
    of: &Product,
    in_a_register: bool,
) -> Result<(Kernel, Launch, ProductArguments)> {
    let Product {
        m,
        n,
        k,
        a,
        b,
        c,
        d,
        bias,
        activation,
    } = *of;
    let pre = activation.and_then(|act| act.pre);
    let contiguous = |matrix: Matrix, rows, columns| if matrix.transposed { rows } else { columns };
    let is_wide = wide(a.at, a.dtype, a.stride, contiguous(a, m, k))
        && wide(b.at, b.dtype, b.stride, contiguous(b, k, n))
        && wide(d.at, d.dtype, d.stride, n)
        && c.is_none_or(|c| wide(c.at, c.dtype, c.stride, n))
        && [bias, pre]
            .into_iter()
            .flatten()
            .all(|at| at.is_multiple_of(4 * d.dtype.size() as u64));
    let tile = match in_a_register {
        true => Tile::Lanes,
        false if m * n >= LARGE => Tile::Of128,
        false => Tile::Of64,
    };
    let (rows, columns, threads) = match tile {
        Tile::Of64 => (64, 64, 256),
        Tile::Of128 => (128, 128, 256),
        Tile::Lanes => (128, 64, 64),
    };
    let entry = match (a.transposed, b.transposed) {
        (false, false) => entries!("nn" is_wide, tile, a.dtype, d.dtype),
        (false, true) => entries!("nt" is_wide, tile, a.dtype, d.dtype),
        (true, false) => entries!("tn" is_wide, tile, a.dtype, d.dtype),
        (true, true) => entries!("tt" is_wide, tile, a.dtype, d.dtype),
    };
    let Some(entry) = entry else {
        return device_error(
            NAME,
            format!("no product of {:?} to {:?}", a.dtype, d.dtype),
        );
    };
    let in_place = c.is_some_and(|c| c.at == d.at);
    let arguments = ProductArguments {
        left: a.at,
        right: b.at,
        addend: c.filter(|_| !in_place).map_or(0, |c| c.at),
        out: d.at,
        bias: bias.unwrap_or(0),
        pre: pre.unwrap_or(0),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        left_stride: a.stride as i64,
        right_stride: b.stride as i64,
        addend_stride: c.map_or(0, |c| c.stride as i64),
        out_stride: d.stride as i64,
        add: in_place.into(),
        activation: activation.map_or(0, |act| act.number),
        each: k as u32,
        padding: 0,
    };
    let grid = [n.div_ceil(columns), m.div_ceil(rows), 1];
    let launch = Launch::blocks(grid, threads).of_work(2 * m * n * k);
    Ok((Kernel::new("product", entry), launch, arguments))
}

/// Whether the product may be one of cooperative matrices.
pub(super) fn is_cooperative(of: &Product) -> bool {
    let sixteens = [of.m, of.n, of.k]
        .iter()
        .all(|side| *side > 0 && side.is_multiple_of(16));
    // Lines of matrices begin at multiples of 16 bytes.
    let aligned = |m: Matrix| m.at.is_multiple_of(16) && m.stride.is_multiple_of(8);
    of.a.dtype == DType::F16 && sixteens && aligned(of.a) && aligned(of.b)
}

/// The launch of a product by cooperative matrices.
pub(super) fn cooperative(of: &Product) -> Result<Call<ProductArguments>> {
    let (_, launch, arguments) = self::launch(of, false)?;
    let entry = match (of.a.transposed, of.b.transposed, of.d.dtype) {
        (false, false, DType::F32) => "cooperative_nn_f32",
        (false, true, DType::F32) => "cooperative_nt_f32",
        (true, false, DType::F32) => "cooperative_tn_f32",
        (true, true, DType::F32) => "cooperative_tt_f32",
        (false, false, _) => "cooperative_nn_f16",
        (false, true, _) => "cooperative_nt_f16",
        (true, false, _) => "cooperative_tn_f16",
        (true, true, _) => "cooperative_tt_f16",
    };
    let launch = Launch {
        grid: [of.n.div_ceil(64) as u32, of.m.div_ceil(64) as u32, 1],
        ..launch
    };
    Ok((Kernel::new("cooperative", entry), launch, arguments))
}

/// How many workgroups share a sum: one, unless D has few tiles and is f32, as the gradient of a small weight over many
/// tokens is.
pub(super) fn parts(of: &Product) -> usize {
    let plain = of.bias.is_none() && of.activation.is_none() && of.d.dtype == DType::F32;
    let in_place = of.c.is_none_or(|c| c.at == of.d.at);
    if !plain || !in_place || of.d.stride != of.n {
        return 1;
    }
    let tiles = of.m.div_ceil(64) * of.n.div_ceil(64);
    let parts = (FEW / tiles.max(1)).min(of.k / SHARE).max(1);
    of.k.div_ceil(each(of.k, parts)).max(1)
}

/// Steps of a part: a multiple of what a tile takes at a time.
fn each(k: usize, parts: usize) -> usize {
    k.div_ceil(parts).next_multiple_of(16)
}

/// A launch, its kernel and its struct.
type Call<A> = (Kernel, Launch, A);

/// The launches of a product whose sums are shared by `parts` workgroups, through memory of `parts` m n f32 at `at`.
pub(super) fn shared(
    of: &Product,
    in_a_register: bool,
    parts: usize,
    at: Address,
) -> Result<(Call<ProductArguments>, Call<ProductSumArguments>)> {
    let whole = Product {
        c: None,
        d: Matrix { at, ..of.d },
        ..*of
    };
    let (kernel, mut launch, mut arguments) = self::launch(&whole, in_a_register)?;
    arguments.each = each(of.k, parts) as u32;
    launch.grid[2] = parts as u32;
    let n = of.m * of.n;
    let sum = ProductSumArguments {
        parts: at,
        out: of.d.at,
        n: n as i64,
        count: parts as u32,
        add: of.c.is_some().into(),
    };
    let spread = Launch::spread(n, 256 * 4);
    let sum = (Kernel::new("product", "product_sum_f32"), spread, sum);
    Ok(((kernel, launch, arguments), sum))
}
