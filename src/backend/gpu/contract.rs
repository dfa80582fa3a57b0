//! The files of the operations joined to the contract.

use super::{
    Gpu, adamw, attention, attention_pool, avg_pool, batch_norm, conv2d, embedding, exp, fetch,
    grad_norm, images, intra_weights, l2_normalize, layer_norm, linear, mse, patchify,
    prepend_class, prepend_mean, relation, relation_backward, relation_curvature, select_rows,
    submatrix, sum, weighted_sum,
};
use crate::backend::{
    Activation, AdamWStep, AdamWTensor, Backend, Convolution, Fetch, Grad, IntraWeights, KERNELS,
    LayerNorm, Linear, Moments, Pair, Relation, Result, RowStats, Segments, Side, Slot,
    shape_error,
};
use crate::tensor::{DType, Normalisation, Tensor};

/// Text is filled up to multiples of so many tokens at least.
const LEAST_TEXT_BUCKET: usize = 64;

fn checked(op: &'static str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().product::<usize>() != len {
        return shape_error(op, format!("{len} values for shape {shape:?}"));
    }
    Ok(())
}

impl Backend for Gpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        let precision = match self.bf16 {
            true => ", bf16",
            false => "",
        };
        format!("{}{precision}", self.device.describe())
    }

    fn coverage(&self) -> &'static [&'static str] {
        KERNELS
    }

    /// cuBLASLt's algorithms are chosen by a trial of each kind of product, a step is replayed where its launches are
    /// those of a step before, and the texts of two batches seldom have the same number of tokens: of n captions they
    /// differ by some √n times a caption's deviation, which is about √tokens to twice that. Six to twelve times √tokens
    /// therefore leave one or two kinds of batch, and add a twentieth at 20 000 tokens.
    fn text_bucket(&self, tokens: usize) -> usize {
        (6 * tokens.isqrt())
            .next_power_of_two()
            .max(LEAST_TEXT_BUCKET)
    }

    fn begin_step(&self) -> Result<()> {
        self.device.begin_step()
    }

    fn end_step(&self) -> Result<()> {
        self.device.end_step()
    }

    fn replays(&self) -> u64 {
        self.device.replays()
    }

    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        checked("upload", shape, data.len())?;
        self.upload_f32(shape, data)
    }

    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor> {
        checked("images", shape, pixels.len())?;
        images::images(self, shape, pixels, by)
    }

    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        checked("upload_i32", shape, data.len())?;
        self.upload_index(shape, data)
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.values(tensor)
    }

    fn fetch(&self, tensors: &[&Tensor]) -> Result<Fetch> {
        fetch::fetch(self, tensors)
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        self.zero_tensor(shape, DType::F32)
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        self.copy_of(tensor)
    }

    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
        self.add_into(slot, value)
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
        linear::forward(self, x, w, b, residual, act, keep_pre)
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
        linear::backward(self, dy, x, w, pre, act, dx, dw, db)
    }

    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor> {
        linear::activate(self, pre, act)
    }

    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor> {
        linear::matmul(self, x, p)
    }

    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()> {
        linear::matmul_backward(self, dy, x, p, dx, dp)
    }

    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<LayerNorm> {
        layer_norm::forward(self, x, gamma, beta, eps)
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
        layer_norm::backward(self, dy, x, gamma, mean, rstd, dx, dgamma, dbeta)
    }

    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor> {
        conv2d::forward(self, x, w, shape)
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
        conv2d::backward(self, dy, x, w, shape, dx, dw)
    }

    fn batch_moments(&self, x: &Tensor) -> Result<Moments> {
        batch_norm::moments(self, x)
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
        batch_norm::forward(self, x, gamma, beta, moments, eps, residual, relu)
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
            self, dy, x, y, gamma, moments, eps, of_batch, dx, dgamma, dbeta, dresidual,
        )
    }

    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor> {
        avg_pool::forward(self, x, size)
    }

    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()> {
        avg_pool::backward(self, dy, shape, size, dx)
    }

    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)> {
        attention::forward(self, qkv, segments, heads, causal)
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
        attention::backward(self, dout, qkv, out, lse, segments, heads, causal, dqkv)
    }

    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)> {
        attention_pool::forward(self, q, k, v, heads)
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
        attention_pool::backward(self, dout, q, k, v, probabilities, dq, dk, dv)
    }

    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor> {
        embedding::forward(self, table, positions, ids, pos)
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
        embedding::backward(self, dy, ids, pos, vocab, context, dtable, dpositions)
    }

    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor> {
        patchify::patchify(self, images, patch)
    }

    fn prepend_class(
        &self,
        patches: &Tensor,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        prepend_class::forward(self, patches, class, positions)
    }

    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        prepend_class::backward(self, dy, len, dpatches, dclass, dpositions)
    }

    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        prepend_mean::forward(self, x, positions)
    }

    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        prepend_mean::backward(self, dy, shape, dx, dpositions)
    }

    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        select_rows::forward(self, x, index)
    }

    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()> {
        select_rows::backward(self, dy, index, rows, dx)
    }

    fn submatrix(
        &self,
        x: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        r: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> Result<Tensor> {
        submatrix::forward(self, x, (rows, columns), (r, c))
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
        submatrix::backward(self, dy, x, (rows, columns), (r, c), (dx, dr, dc))
    }

    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        l2_normalize::forward(self, x)
    }

    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()> {
        l2_normalize::backward(self, dy, y, inverse, dx)
    }

    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        exp::forward(self, x)
    }

    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        exp::backward(self, dy, y, dx)
    }

    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor> {
        weighted_sum::forward(self, terms)
    }

    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
        weighted_sum::backward(self, dy, factor, dx)
    }

    fn relation(&self, pair: &Pair) -> Result<RowStats> {
        relation::forward(self, pair)
    }

    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()> {
        relation_backward::backward(self, pair, row, col, dx, dscale)
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
        relation_curvature::curvature(self, relation, stats, tangent, coef, dx, dy, dscale)
    }

    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        intra_weights::intra_weights(self, d, weights, weights_from)
    }

    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        sum::sum(self, x, factor)
    }

    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor> {
        sum::scale_by(self, scalar, factor, x, n)
    }

    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        mse::forward(self, x, y)
    }

    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        mse::backward(self, dy, x, y, dx)
    }

    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()> {
        adamw::adamw(self, tensors, step)
    }

    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        grad_norm::grad_norm(self, grads)
    }

    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()> {
        adamw::clamp(self, x, low, high)
    }
}
