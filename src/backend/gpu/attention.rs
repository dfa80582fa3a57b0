//! Attention within packed segments.

use super::device::{Address, Kernel, Launch};
use super::operand::done;
use super::{Gpu, arguments};
use crate::backend::{Attention, AttentionBackward, Op, Result, Segments, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "attention";

arguments! {
    struct AttentionArguments in "attention" {
        qkv: Address,
        offsets: Address,
        out: Address,
        lse: Address,
        total: i32,
        segments: i32,
        heads: i32,
        dim: i32,
        causal: i32,
        scale: f32,
    }

    struct AttentionBackwardArguments in "attention" {
        dout: Address,
        qkv: Address,
        offsets: Address,
        out: Address,
        lse: Address,
        delta: Address,
        dqkv: Address,
        total: i32,
        segments: i32,
        heads: i32,
        dim: i32,
        causal: i32,
        scale: f32,
        add: i32,
        padding: i32,
    }
}

/// The kernels for heads of up to 32, 64 and 128 columns, as `cuda/attention_{f32,bf16}.cuh` lay out their tiles; those
/// of `shaders/attention.wgsl` own as many rows a block, and declare their memory themselves.
struct Instance {
    forward: &'static str,
    queries: &'static str,
    keys: &'static str,
    /// Rows of a segment that a block owns, and rows that go by at a time.
    rows: usize,
    stream: usize,
    /// Elements from a row of a tile to the next.
    stride: usize,
    dtype: DType,
}

macro_rules! kernels {
    ($name:literal, $rows:literal, $stream:literal, $stride:literal, $dtype:ident) => {
        Instance {
            forward: concat!("attention_", $name),
            queries: concat!("attention_backward_queries_", $name),
            keys: concat!("attention_backward_keys_", $name),
            rows: $rows,
            stream: $stream,
            stride: $stride,
            dtype: DType::$dtype,
        }
    };
}

/// Whether the tiles have room for a head, and for which.
pub(super) fn limit(shape: &[usize]) -> (bool, &'static str) {
    let fits = shape.last().is_none_or(|&columns| columns <= 128);
    (fits, "heads of at most 128 columns")
}

fn instance(dim: usize, dtype: DType) -> Instance {
    match (dim, dtype) {
        (0..=32, DType::BF16) => kernels!("32_bf16", 64, 64, 32, BF16),
        (33..=64, DType::BF16) => kernels!("64_bf16", 64, 64, 64, BF16),
        (_, DType::BF16) => kernels!("128_bf16", 64, 64, 128, BF16),
        (0..=32, DType::F16) => kernels!("32_f16", 64, 32, 36, F16),
        (33..=64, DType::F16) => kernels!("64_f16", 64, 32, 68, F16),
        (_, DType::F16) => kernels!("128_f16", 32, 16, 132, F16),
        (0..=32, _) => kernels!("32_f32", 64, 32, 36, F32),
        (33..=64, _) => kernels!("64_f32", 64, 32, 68, F32),
        _ => kernels!("128_f32", 32, 16, 132, F32),
    }
}

impl Instance {
    /// A launch with `own` tiles of a block's rows and two operands streamed past them, whose kernel makes `products`
    /// products for each pair of rows.
    fn launch(
        &self,
        own: usize,
        products: usize,
        segments: &Segments,
        [heads, dim]: [usize; 2],
    ) -> Launch {
        let tiles = segments.total() / self.rows + segments.count();
        let lengths = segments.offsets().windows(2).map(|pair| pair[1] - pair[0]);
        let of_rows: usize = lengths.map(|length| length * length).sum();
        let (threads, shared) = match self.dtype {
            // Two buffers of each streamed tile, and of two statistics a row.
            DType::BF16 => (
                128,
                (own + 4) * self.rows * self.stride * 2 + 16 * self.rows,
            ),
            // One of each, and weights of all rows.
            _ => {
                let tiles = (own * self.rows + 2 * self.stream) * self.stride;
                (4 * self.rows, 4 * (tiles + self.rows * (self.stream + 4)))
            }
        };
        Launch {
            grid: [(tiles * heads) as u32, 1, 1],
            block: threads as u32,
            shared: shared as u32,
            work: (products * 2 * of_rows * heads * dim) as u64,
        }
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { module: OP, entry }
}

impl Attention for Gpu {
    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (total, width, dtype) = (segments.total(), qkv.width() / 3, self.activations());
        let dim = width / heads;
        self.check_size(Op::Attention, &[total, heads, dim])?;
        let instance = instance(dim, dtype);
        let qkv = self.read(OP, qkv, dtype)?;
        let offsets = self.read_index(OP, segments.device(), total + 1)?;
        let (out, out_at) = self.empty(&[total, width], dtype)?;
        let (lse, lse_at) = self.empty(&[heads, total], DType::F32)?;
        let arguments = AttentionArguments {
            qkv: qkv.at(),
            offsets,
            out: out_at,
            lse: lse_at,
            total: total as i32,
            segments: segments.count() as i32,
            heads: heads as i32,
            dim: dim as i32,
            causal: causal.into(),
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let launch = instance.launch(1, 2, segments, [heads, dim]);
        self.launch(kernel(instance.forward), launch, &arguments)?;
        Ok((out, lse))
    }

    fn attention_backward(&self, of: AttentionBackward, dqkv: Slot) -> Result<()> {
        let AttentionBackward {
            dout,
            qkv,
            out,
            lse,
            segments,
            heads,
            causal,
        } = of;
        let (total, width, dtype) = (segments.total(), qkv.width() / 3, self.activations());
        let dim = width / heads;
        self.check_size(Op::Attention, &[total, heads, dim])?;
        let instance = instance(dim, dtype);
        let Some(target) = self.target(OP, dqkv, qkv.shape(), dtype)? else {
            return Ok(());
        };
        let (dout, out) = (self.read(OP, dout, dtype)?, self.read(OP, out, dtype)?);
        let (qkv, lse) = (self.read(OP, qkv, dtype)?, self.read(OP, lse, DType::F32)?);
        let delta = self.allocate(heads * total * 4)?;
        let arguments = AttentionBackwardArguments {
            dout: dout.at(),
            qkv: qkv.at(),
            offsets: self.read_index(OP, segments.device(), total + 1)?,
            out: out.at(),
            lse: lse.at(),
            delta: delta.at(),
            dqkv: target.at(),
            total: total as i32,
            segments: segments.count() as i32,
            heads: heads as i32,
            dim: dim as i32,
            causal: causal.into(),
            scale: 1.0 / (dim as f32).sqrt(),
            add: target.add().into(),
            padding: 0,
        };
        let launch = instance.launch(2, 4, segments, [heads, dim]);
        self.launch(kernel(instance.queries), launch, &arguments)?;
        self.launch(kernel(instance.keys), launch, &arguments)?;
        done(self, [Some(target)])
    }
}
