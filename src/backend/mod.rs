//! The contract between operations and devices: one object-safe trait, a method per kernel.
//!
//! Shapes are checked by the operations (`ops`, `loss`); a backend checks only what would be
//! unsafe to trust. Gradients are *accumulated by the kernel that makes them*: a kernel gets a
//! [`Slot`] for each gradient it computes, and either fills it (when empty) or adds into it. A slot
//! of `None` means that nobody wants that gradient.

pub mod cpu;
pub mod cuda;
mod error;
mod fetch;
pub mod gpu;
mod relation;
mod segments;

pub use error::{Error, Result, device_error, shape_error};
pub use fetch::{Coming, Fetch};
pub use relation::{IntraWeights, Pair, Relation, RowStats, Side};
pub use segments::Segments;

use crate::tensor::{Normalisation, Tensor};

/// A gradient under accumulation: empty until the first contribution.
pub type Grad = Option<Tensor>;

/// Where a kernel puts a gradient; `None` when it is not wanted.
pub type Slot<'a> = Option<&'a mut Grad>;

/// The elementwise function behind a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Identity.
    None,
    /// x Φ(x) with the exact Gaussian distribution function (erf).
    Gelu,
    /// x σ(1.702 x), as OpenAI's weights were trained.
    QuickGelu,
}

/// Output of [`Backend::linear`].
pub struct Linear {
    /// act(x Wᵀ + b) + residual, `[rows, out]`.
    pub y: Tensor,
    /// x Wᵀ + b, kept for the activation's derivative; `None` without activation or when not asked.
    pub pre: Option<Tensor>,
}

/// Output of [`Backend::layer_norm`].
pub struct LayerNorm {
    /// Normalised, scaled and shifted rows, `[rows, width]`.
    pub y: Tensor,
    /// Mean of each row, `[rows]`.
    pub mean: Tensor,
    /// 1/√(variance + ε) of each row, `[rows]`.
    pub rstd: Tensor,
}

/// Geometry of a convolution with square filters over NHWC images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Side of a filter.
    pub kernel: usize,
    /// Distance between two neighbouring outputs, in inputs.
    pub stride: usize,
    /// Zeros around the image on every side, fewer than `kernel`.
    pub padding: usize,
}

impl Convolution {
    /// Outputs along a side of `side` inputs; 0 if no filter fits.
    pub fn output(self, side: usize) -> usize {
        match (side + 2 * self.padding).checked_sub(self.kernel) {
            Some(room) => room / self.stride + 1,
            None => 0,
        }
    }
}

/// Mean and variance of each channel: what batch normalisation divides by.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `[channels]`.
    pub mean: Tensor,
    /// `[channels]`, the biased one: divided by the number of elements.
    pub variance: Tensor,
}

/// One parameter of an AdamW step; see [`Backend::adamw`].
pub struct AdamWTensor<'a> {
    /// Updated in place.
    pub param: &'a mut Tensor,
    /// Gradient of the same shape.
    pub grad: &'a Tensor,
    /// First moment, updated in place.
    pub m: &'a mut Tensor,
    /// Second moment, updated in place.
    pub v: &'a mut Tensor,
    /// Weight decay of this tensor.
    pub weight_decay: f32,
}

/// Numbers of one AdamW step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep<'a> {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to √v̂.
    pub eps: f32,
    /// 1-based number of this step, for the bias corrections.
    pub step: u64,
    /// Clips all gradients together first.
    pub clip: Option<Clip<'a>>,
}

/// Clipping as torch's `clip_grad_norm_`: gradients times min(1, max/(norm + 1e-6)).
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// The gradients' norm, `[1]`, of [`Backend::grad_norm`]: on the device, where nobody waits for it.
    pub norm: &'a Tensor,
    /// The largest norm that stays as it is.
    pub max: f32,
}

/// The names of all kernels, as [`Backend::coverage`] lists them.
pub const KERNELS: &[&str] = &[
    "storage",
    "images",
    "linear",
    "matmul",
    "layer_norm",
    "conv2d",
    "batch_norm",
    "avg_pool",
    "attention",
    "attention_pool",
    "embedding",
    "patchify",
    "prepend_class",
    "prepend_mean",
    "select_rows",
    "submatrix",
    "l2_normalize",
    "exp",
    "weighted_sum",
    "relation",
    "relation_curvature",
    "intra_weights",
    "mse",
    "adamw",
    "grad_norm",
];

/// A device that runs every kernel of the engine.
#[allow(clippy::too_many_arguments)] // kernels take the operands of their formulas
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Short name: `cpu`, `cuda`, `wgpu`.
    fn name(&self) -> &'static str;

    /// One line about the device, for the log.
    fn describe(&self) -> String;

    /// Which of [`KERNELS`] this backend has.
    fn coverage(&self) -> &'static [&'static str];

    /// Images that a frozen tower should see at once. By default all.
    fn frozen_batch(&self) -> usize {
        usize::MAX
    }

    /// Packed texts of `tokens` tokens should be filled up to a multiple of this, where a device is faster at shapes that
    /// it has met before. By default nothing is filled up.
    fn text_bucket(&self, tokens: usize) -> usize {
        let _ = tokens;
        1
    }

    /// What is asked from here to [`Backend::end_step`] will be asked again and again: a step of training, or a part of
    /// one. A device may hold it back, and run the whole of it there.
    fn begin_step(&self) -> Result<()> {
        Ok(())
    }

    /// The end of what [`Backend::begin_step`] began, also of a step that failed.
    fn end_step(&self) -> Result<()> {
        Ok(())
    }

    /// Steps and parts of steps so far that the device ran as one piece, since it had met the same before.
    fn replays(&self) -> u64 {
        0
    }

    // --- storage -----------------------------------------------------------------------------

    /// A tensor of f32 values from host memory.
    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor>;

    /// 8-bit pixels `[…, 3]` from host memory, normalised on the device.
    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor>;

    /// A tensor of i32 values from host memory.
    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor>;

    /// The values of an f32 tensor, waiting for all work before it.
    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>>;

    /// Sends the values of f32 tensors, one behind the other, to the host, which goes on meanwhile.
    fn fetch(&self, tensors: &[&Tensor]) -> Result<Fetch> {
        let values: Result<Vec<_>> = tensors.iter().map(|t| self.download(t)).collect();
        Ok(Fetch::Here(values?.concat()))
    }

    /// A tensor of zeros (f32).
    fn zeros(&self, shape: &[usize]) -> Result<Tensor>;

    /// A tensor with storage of its own and the same values.
    fn copy(&self, tensor: &Tensor) -> Result<Tensor>;

    /// `slot += value`: moves the value in when the slot is empty, without touching memory.
    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()>;

    // --- linear ------------------------------------------------------------------------------

    /// y = act(x Wᵀ + b) + residual. x `[rows, in]`, w `[out, in]`, b `[out]`, residual
    /// `[rows, out]`. `keep_pre` asks for the pre-activation that the backward pass reads.
    fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        residual: Option<&Tensor>,
        act: Activation,
        keep_pre: bool,
    ) -> Result<Linear>;

    /// Given dy `[rows, out]`: dpre = dy·act′(pre), dx += dpre W, dw += dpreᵀ x, db += Σ_rows dpre.
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
    ) -> Result<()>;

    /// act(pre), the bits that [`Backend::linear`] gave without a residual.
    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor>;

    /// y = x P. x `[rows, in]`, p `[in, out]`.
    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor>;

    /// dx += dy Pᵀ, dp += xᵀ dy.
    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()>;

    // --- layer_norm --------------------------------------------------------------------------

    /// Normalises each row of x `[rows, width]` and applies gamma and beta `[width]`.
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<LayerNorm>;

    /// Backward of [`Backend::layer_norm`].
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
    ) -> Result<()>;

    // --- convolutional networks --------------------------------------------------------------

    /// Cross-correlation with zero padding. x `[batch, h, w, in]`, w `[out, kernel·kernel·in]` with each
    /// filter in (y, x, channel) order → `[batch, h′, w′, out]`, sides by [`Convolution::output`].
    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor>;

    /// Backward of [`Backend::conv2d`] from dy `[batch, h′, w′, out]`.
    fn conv2d_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        shape: Convolution,
        dx: Slot,
        dw: Slot,
    ) -> Result<()>;

    /// Mean and biased variance of each channel of x `[…, channels]` over all else.
    fn batch_moments(&self, x: &Tensor) -> Result<Moments>;

    /// y = γ (x − mean) / √(variance + ε) + β + residual, and then max(y, 0) if `relu`.
    fn batch_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        moments: &Moments,
        eps: f32,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor>;

    /// Backward of [`Backend::batch_norm`]. `y` is its output if it had a ReLU. `of_batch` says that
    /// the moments are those of x, so that they vary with it; otherwise they are constants.
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
    ) -> Result<()>;

    /// Means over `size` × `size` tiles of x `[batch, h, w, channels]`, whose sides `size` divides.
    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor>;

    /// dx += dy / size² for each input of a tile; `shape` is x's.
    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()>;

    // --- attention ---------------------------------------------------------------------------

    /// Softmax attention within each segment. qkv `[total, 3·width]` holds q, k, v side by side, each
    /// head a contiguous chunk. Returns the output `[total, width]` and the log-sum-exp of every
    /// row of logits `[heads, total]`.
    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)>;

    /// Backward of [`Backend::attention`]: recomputes the probabilities from `lse`.
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
    ) -> Result<()>;

    /// Softmax attention of one query an image over that image's tokens: q `[batch, width]`, k and v
    /// `[batch·tokens, width]`, each head a contiguous chunk. Returns the output `[batch, width]` and
    /// the probabilities `[batch, heads, tokens]`.
    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)>;

    /// Backward of [`Backend::attention_pool`].
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
    ) -> Result<()>;

    // --- embedding and token moves -----------------------------------------------------------

    /// out_r = table[ids_r] + positions[pos_r]. ids, pos `[rows]` i32.
    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor>;

    /// Scatters dy `[rows, width]` into both tables, in a fixed order. `vocab` and `context` are
    /// the tables' numbers of rows.
    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
        vocab: usize,
        context: usize,
        dtable: Slot,
        dpositions: Slot,
    ) -> Result<()>;

    /// Cuts images `[batch, h, w, 3]` into patches `[batch·(h/p)·(w/p), p·p·3]`, row-major over the
    /// grid, each patch in (y, x, channel) order.
    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor>;

    /// Prepends a class token to each image's patches and adds positions: patches
    /// `[batch·len, width]`, class `[width]`, positions `[1 + len, width]` →
    /// `[batch·(1 + len), width]`.
    fn prepend_class(&self, patches: &Tensor, class: &Tensor, positions: &Tensor)
    -> Result<Tensor>;

    /// Backward of [`Backend::prepend_class`] from dy `[batch·(1 + len), width]`.
    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()>;

    /// Prepends each image's mean and adds positions: x `[batch, h, w, width]`, positions
    /// `[1 + h·w, width]` → `[batch·(1 + h·w), width]`.
    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor>;

    /// Backward of [`Backend::prepend_mean`] from dy `[batch·(1 + h·w), width]`; `shape` is x's.
    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()>;

    /// out_r = x[index_r]: `[n, width]` from x `[rows, width]`, index `[n]` i32.
    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor>;

    /// dx[index_r] += dy_r, in a fixed order; `rows` is x's number of rows.
    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()>;

    // --- weight inheritance ------------------------------------------------------------------

    /// y_ij = r_i c_j x[rows_i, columns_j] of a matrix x, or of a vector as one row: a vector then. rows
    /// and columns are i32, each without repetition; an absent r or c is all ones.
    fn submatrix(
        &self,
        x: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        r: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> Result<Tensor>;

    /// dx[rows_i, columns_j] += r_i c_j dy_ij, dr_i += Σ_j c_j dy_ij x[rows_i, columns_j], and dc_j
    /// likewise over i.
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
    ) -> Result<()>;

    // --- small elementwise -------------------------------------------------------------------

    /// y = x / max(‖x‖, 1e-12) for each row, and the factor 1 / max(‖x‖, 1e-12) `[rows]`.
    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)>;

    /// Backward of [`Backend::l2_normalize`].
    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()>;

    /// Elementwise exponential.
    fn exp(&self, x: &Tensor) -> Result<Tensor>;

    /// dx += dy · y.
    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()>;

    /// Σ_k weight_k · term_k of tensors of one shape.
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor>;

    /// dx += factor · dy.
    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()>;

    // --- losses ------------------------------------------------------------------------------

    /// Streams the similarity rows of `pair` and returns their statistics; see [`RowStats`].
    fn relation(&self, pair: &Pair) -> Result<RowStats>;

    /// Gradient of relation losses with respect to `pair.student.x`; recomputes every tile.
    ///
    /// With P_ij = exp(a_ij − A_i) and the target T_ij (teacher's softmax, or identity):
    /// C_ij = row.coef_i (P_ij − T_ij) + col.coef_j (P′_ji − T′_ji), where the primed terms are
    /// softmaxes along the other direction; dx_i += α Σ_j C_ij y_j. The row part alone gives
    /// dscale += Σ_ij row.coef_i (P_ij − T_ij) x_i·y_j, so that each direction contributes once.
    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()>;

    /// Gradient of φ = ⟨u, ∂ℓ/∂x⟩ + ⟨z, ∂ℓ/∂y⟩ with respect to the relation's x, y and scale, where
    /// ℓ = coef Σ_i CE(a_i:, i) and `tangent` = (u `[n, width]`, z `[m, width]`) is constant: ℓ's second
    /// derivative applied to (u, z). `stats` are the relation's without a teacher; tiles are made again.
    ///
    /// With E_ij = P_ij − [i=j], w_ij = u_i·y_j + x_i·z_j, r_i = Σ_j P_ij w_ij and
    /// D_ij = coef α P_ij (w_ij − r_i): dx_i += α Σ_j (D_ij y_j + coef E_ij z_j),
    /// dy_j += α Σ_i (D_ij x_i + coef E_ij u_i), dscale += Σ_ij D_ij x_i·y_j + coef Σ_ij E_ij w_ij.
    fn relation_curvature(
        &self,
        relation: &Relation,
        stats: &RowStats,
        tangent: (&Tensor, &Tensor),
        coef: f32,
        dx: Slot,
        dy: Slot,
        dscale: Slot,
    ) -> Result<()>;

    /// The weighted mean of per-anchor divergences d `[n]` under `weights`: the loss `[1]`, its
    /// derivative g `[n]` by each d, and for [`IntraWeights::Clip`] the derivative `[n]` by each
    /// entry of `weights_from` (the anchors' cross-entropies).
    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)>;

    /// Sum of all elements times `factor`, as `[1]`.
    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor>;

    /// out_i = scalar · factor · x_i, with `scalar` a `[1]` tensor on the device; x absent means 1.
    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor>;

    /// Mean of (x − y)² over all elements, `[1]`.
    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor>;

    /// dx += dy · 2 (x − y) / len, dy `[1]`.
    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()>;

    // --- optimiser ---------------------------------------------------------------------------

    /// One AdamW step (Loshchilov and Hutter, arXiv 1711.05101; PyTorch's order of operations):
    /// p ← p (1 − lr·wd); m, v updated; p ← p − lr m̂ / (√v̂ + ε).
    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()>;

    /// √Σ g² over all tensors, `[1]`, summed in f64 in a fixed order.
    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor>;

    /// Clamps every element into [low, high] in place.
    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()>;
}
