//! Matrix products: which kernel of `shaders/product.wgsl` takes one.

use super::NAME;
use crate::backend::gpu::arguments::arguments;
use crate::backend::gpu::device::{Address, Kernel, Launch, Matrix, Product};
use crate::backend::{Result, device_error};
use crate::tensor::DType;

arguments! {
    pub(super) struct ProductArguments in "product" {
        left: Address,
        right: Address,
        addend: Address,
        out: Address,
        bias: Address,
        m: i64,
        n: i64,
        k: i64,
        left_stride: i64,
        right_stride: i64,
        addend_stride: i64,
        out_stride: i64,
        /// Whether the product is added to what `out` holds.
        add: i32,
        padding: i32,
    }
}

/// From this many elements of the result on, its tiles are of 128 × 128: enough of them to fill a GPU.
const LARGE: usize = 64 * 128 * 128;

/// The entry for the transpositions (`n` or `t`), the width of accesses, the tile's side and the element types.
macro_rules! entries {
    ($left:ident $right:ident $width:ident $tile:literal $from:expr, $to:expr) => {
        match ($from, $to) {
            (DType::F32, DType::F32) => Some(concat!("product_", stringify!($left), stringify!($right), "_", stringify!($width), "_", $tile, "_f32_f32")),
            (DType::F16, DType::F32) => Some(concat!("product_", stringify!($left), stringify!($right), "_", stringify!($width), "_", $tile, "_f16_f32")),
            (DType::F16, DType::F16) => Some(concat!("product_", stringify!($left), stringify!($right), "_", stringify!($width), "_", $tile, "_f16_f16")),
            _ => None,
        }
    };
    ($left:ident $right:ident $wide:expr, $large:expr, $from:expr, $to:expr) => {
        match ($wide, $large) {
            (true, true) => entries!($left $right wide "128" $from, $to),
            (true, false) => entries!($left $right wide "64" $from, $to),
            (false, true) => entries!($left $right narrow "128" $from, $to),
            (false, false) => entries!($left $right narrow "64" $from, $to),
        }
    };
}

/// Whether rows of `length` elements can be moved four at a time.
fn wide(at: Address, dtype: DType, stride: usize, length: usize) -> bool {
    let unit = 4 * dtype.size() as u64;
    stride.is_multiple_of(4) && length.is_multiple_of(4) && at.is_multiple_of(unit)
}

/// The kernel of a product, its launch and its struct.
pub(super) fn launch(of: &Product) -> Result<(Kernel, Launch, ProductArguments)> {
    let Product {
        m,
        n,
        k,
        a,
        b,
        c,
        d,
        bias,
    } = *of;
    let contiguous = |matrix: Matrix, rows, columns| if matrix.transposed { rows } else { columns };
    let is_wide = wide(a.at, a.dtype, a.stride, contiguous(a, m, k))
        && wide(b.at, b.dtype, b.stride, contiguous(b, k, n))
        && wide(d.at, d.dtype, d.stride, n)
        && c.is_none_or(|c| wide(c.at, c.dtype, c.stride, n))
        && bias.is_none_or(|at| at.is_multiple_of(4 * d.dtype.size() as u64));
    let large = m * n >= LARGE;
    let tile = if large { 128 } else { 64 };
    let entry = match (a.transposed, b.transposed) {
        (false, false) => entries!(n n is_wide, large, a.dtype, d.dtype),
        (false, true) => entries!(n t is_wide, large, a.dtype, d.dtype),
        (true, false) => entries!(t n is_wide, large, a.dtype, d.dtype),
        (true, true) => entries!(t t is_wide, large, a.dtype, d.dtype),
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
        m: m as i64,
        n: n as i64,
        k: k as i64,
        left_stride: a.stride as i64,
        right_stride: b.stride as i64,
        addend_stride: c.map_or(0, |c| c.stride as i64),
        out_stride: d.stride as i64,
        add: in_place.into(),
        padding: 0,
    };
    let launch =
        Launch::blocks([n.div_ceil(tile), m.div_ceil(tile), 1], 256).of_work(2 * m * n * k);
    Ok((Kernel::new("product", entry), launch, arguments))
}
