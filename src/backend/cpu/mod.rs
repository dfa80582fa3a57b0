//! The CPU: the embedded default, and the first oracle of the other backends. Tensors are f32; where the
//! processor has AVX512-BF16, linear layers and convolutions can take their products in bf16.
//!
//! Each kernel lives in the file of its operation; this file only joins them to the contract.

#![allow(clippy::too_many_arguments)] // kernels take the operands of their formulas

mod attention;
mod attention_pool;
mod avg_pool;
mod batch_norm;
mod conv2d;
mod elementwise;
mod embedding;
mod gemm;
mod images;
mod intra_weights;
mod l2_normalize;
mod layer_norm;
mod linear;
mod math;
mod memory;
mod mse;
mod optimizer;
mod parallel;
mod relation;
mod storage;
mod submatrix;
mod tokens;

use super::{
    Activation, AdamWStep, AdamWTensor, Backend, Convolution, Grad, IntraWeights, KERNELS,
    LayerNorm, Linear, Moments, Pair, Relation, Result, RowStats, Segments, Side, Slot,
    shape_error,
};
use crate::tensor::{Normalisation, Tensor};
use gemm::Products;
use memory::Memory;

/// The CPU backend. Work is spread over rayon's global pool; results do not depend on its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    products: Products,
}

impl Cpu {
    const NAME: &'static str = "cpu";

    /// The CPU backend, in f32.
    pub fn new() -> Self {
        Self::default()
    }

    /// The CPU backend with mixed precision: linear layers, convolutions and projections round their operands to
    /// bf16 and sum in f32; all else, and every tensor that is kept, is f32. `None` where the
    /// processor lacks AVX512-BF16.
    pub fn bf16() -> Option<Self> {
        let products = Products::Bf16;
        gemm::bf16_available().then_some(Self { products })
    }
}

fn checked(op: &'static str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().product::<usize>() != len {
        return shape_error(op, format!("{len} values for shape {shape:?}"));
    }
    Ok(())
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn describe(&self) -> String {
        // pulp's Debug goes on to list every instruction set.
        let arch = format!("{:?}", pulp::Arch::new());
        let level = arch.split([' ', '(']).next().unwrap_or_default();
        format!(
            "CPU, {} threads, {level} vectors{}",
            rayon::current_num_threads(),
            match self.products {
                Products::F32 => "",
                Products::Bf16 => ", bf16 products",
            }
        )
    }

    /// Few enough that a block's values stay in the last-level cache.
    fn frozen_batch(&self) -> usize {
        8
    }

    fn coverage(&self) -> &'static [&'static str] {
        KERNELS
    }

    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        checked("upload", shape, data.len())?;
        Ok(storage::tensor(shape, Memory::copy_of(data)))
    }

    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor> {
        checked("images", shape, pixels.len())?;
        images::images(shape, pixels, by)
    }

    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        checked("upload_i32", shape, data.len())?;
        Ok(storage::tensor_i32(shape, data.to_vec()))
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(storage::f32s("download", tensor)?.to_vec())
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        Ok(storage::tensor(
            shape,
            Memory::zeros(shape.iter().product()),
        ))
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(storage::tensor(
            tensor.shape(),
            Memory::copy_of(storage::f32s("copy", tensor)?),
        ))
    }

    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
        elementwise::accumulate(slot, value)
    }

    fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        residual: Option<&Tensor>,
        act: Activation,
        keep_pre: bool,
    ) -> Result<Linear> {
        linear::forward(self.products, x, w, b, residual, act, keep_pre)
    }

    fn linear_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        pre: Option<&Tensor>,
        act: Activation,
        dx: Slot,
        dw: Slot,
        db: Slot,
    ) -> Result<()> {
        linear::backward(self.products, dy, x, w, pre, act, dx, dw, db)
    }

    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor> {
        linear::activate(pre, act)
    }

    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor> {
        linear::matmul(self.products, x, p)
    }

    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()> {
        linear::matmul_backward(self.products, dy, x, p, dx, dp)
    }

    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<LayerNorm> {
        layer_norm::forward(x, gamma, beta, eps)
    }

    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        mean: &Tensor,
        rstd: &Tensor,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
    ) -> Result<()> {
        layer_norm::backward(dy, x, gamma, mean, rstd, dx, dgamma, dbeta)
    }

    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor> {
        conv2d::forward(self.products, x, w, shape)
    }

    fn conv2d_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        shape: Convolution,
        dx: Slot,
        dw: Slot,
    ) -> Result<()> {
        conv2d::backward(self.products, dy, x, w, shape, dx, dw)
    }

    fn batch_moments(&self, x: &Tensor) -> Result<Moments> {
        batch_norm::moments(x)
    }

    fn batch_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        moments: &Moments,
        eps: f32,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        batch_norm::forward(x, gamma, beta, moments, eps, residual, relu)
    }

    fn batch_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        y: Option<&Tensor>,
        gamma: &Tensor,
        moments: &Moments,
        eps: f32,
        of_batch: bool,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
        dresidual: Slot,
    ) -> Result<()> {
        batch_norm::backward(
            dy, x, y, gamma, moments, eps, of_batch, dx, dgamma, dbeta, dresidual,
        )
    }

    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor> {
        avg_pool::forward(x, size)
    }

    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()> {
        avg_pool::backward(dy, shape, size, dx)
    }

    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)> {
        attention::forward(qkv, segments, heads, causal)
    }

    fn attention_backward(
        &self,
        dout: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
        dqkv: Slot,
    ) -> Result<()> {
        attention::backward(dout, qkv, out, lse, segments, heads, causal, dqkv)
    }

    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)> {
        attention_pool::forward(q, k, v, heads)
    }

    fn attention_pool_backward(
        &self,
        dout: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        probabilities: &Tensor,
        dq: Slot,
        dk: Slot,
        dv: Slot,
    ) -> Result<()> {
        attention_pool::backward(dout, q, k, v, probabilities, dq, dk, dv)
    }

    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor> {
        embedding::forward(table, positions, ids, pos)
    }

    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
        vocab: usize,
        context: usize,
        dtable: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        embedding::scatter(dy, ids, vocab, dtable)?;
        embedding::scatter(dy, pos, context, dpositions)
    }

    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor> {
        tokens::patchify(images, patch)
    }

    fn prepend_class(
        &self,
        patches: &Tensor,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        tokens::prepend_class(patches, class, positions)
    }

    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        tokens::prepend_class_backward(dy, len, dpatches, dclass, dpositions)
    }

    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        tokens::prepend_mean(x, positions)
    }

    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        tokens::prepend_mean_backward(dy, shape, dx, dpositions)
    }

    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        tokens::select_rows(x, index)
    }

    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()> {
        embedding::scatter(dy, index, rows, dx)
    }

    fn submatrix(
        &self,
        x: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        r: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> Result<Tensor> {
        submatrix::forward(x, rows, columns, r, c)
    }

    fn submatrix_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        r: Option<&Tensor>,
        c: Option<&Tensor>,
        dx: Slot,
        dr: Slot,
        dc: Slot,
    ) -> Result<()> {
        submatrix::backward(dy, x, (rows, columns), (r, c), (dx, dr, dc))
    }

    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        l2_normalize::forward(x)
    }

    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()> {
        l2_normalize::backward(dy, y, inverse, dx)
    }

    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        elementwise::exp(x)
    }

    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        elementwise::exp_backward(dy, y, dx)
    }

    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor> {
        elementwise::weighted_sum(terms)
    }

    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
        elementwise::scale_backward(dy, factor, dx)
    }

    fn relation(&self, pair: &Pair) -> Result<RowStats> {
        relation::forward(pair)
    }

    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()> {
        relation::backward(pair, row, col, dx, dscale)
    }

    fn relation_curvature(
        &self,
        relation: &Relation,
        stats: &RowStats,
        tangent: (&Tensor, &Tensor),
        coef: f32,
        dx: Slot,
        dy: Slot,
        dscale: Slot,
    ) -> Result<()> {
        relation::curvature(relation, stats, tangent, coef, dx, dy, dscale)
    }

    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        intra_weights::intra_weights(d, weights, weights_from)
    }

    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        elementwise::sum(x, factor)
    }

    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor> {
        elementwise::scale_by(scalar, factor, x, n)
    }

    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        mse::forward(x, y)
    }

    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        mse::backward(dy, x, y, dx)
    }

    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()> {
        optimizer::adamw(tensors, step)
    }

    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        self.upload(&[1], &[optimizer::grad_norm(grads)?])
    }

    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()> {
        optimizer::clamp(x, low, high)
    }
}
