//! The pre-LayerNorm transformer that both towers share (open_clip's `Transformer`).

use super::{Bound, Result};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;
use crate::tensor::Tensor;

/// ε of every LayerNorm in CLIP.
pub(super) const LN_EPS: f32 = 1e-5;

/// What a stack of blocks needs to know.
#[derive(Clone)]
pub(super) struct Stack {
    /// Name of the first block less its number: `visual.transformer.resblocks.`.
    pub prefix: &'static str,
    pub layers: usize,
    /// Width of a head; a masked block may have fewer heads than the others.
    pub head_width: usize,
    pub causal: bool,
    pub act: Activation,
    /// Whether each block keeps its input alone and runs again in backward.
    pub recompute: bool,
}

/// Linear layer `name`.weight, `name`.bias.
fn linear(
    tape: &Tape,
    bound: &Bound,
    (weight, bias): (String, String),
    x: &Var,
    residual: Option<&Var>,
    act: Activation,
) -> Result<Var> {
    Ok(ops::linear(
        tape,
        x,
        bound.var(&weight)?,
        Some(bound.var(&bias)?),
        residual,
        act,
    )?)
}

/// LayerNorm `name`.weight, `name`.bias.
pub(super) fn layer_norm(tape: &Tape, bound: &Bound, name: &str, x: &Var) -> Result<Var> {
    let (gamma, beta) = (bound.at(name, ".weight")?, bound.at(name, ".bias")?);
    Ok(ops::layer_norm(tape, x, gamma, beta, LN_EPS)?)
}

impl Stack {
    /// Runs packed tokens x `[total, width]` through all blocks, x ← x + attention(ln_1(x)),
    /// x ← x + mlp(ln_2(x)), and gives the rows `pooled` `[n]` of the last, `[n, width]`. After the
    /// last attention rows are independent, so from there on that block computes those rows alone:
    /// three quarters of a layer's products.
    pub fn forward(
        &self,
        tape: &Tape,
        bound: &Bound,
        mut x: Var,
        segments: &Segments,
        pooled: &Tensor,
    ) -> Result<Var> {
        for layer in 0..self.layers {
            let pooled = (layer + 1 == self.layers).then(|| pooled.clone());
            x = if self.recompute {
                let (stack, bound, segments) = (self.clone(), bound.clone(), segments.clone());
                let input = x.clone();
                tape.checkpoint(&[&x], move |tape| {
                    stack.block(tape, &bound, layer, &input, &segments, pooled.as_ref())
                })?
            } else {
                self.block(tape, bound, layer, &x, segments, pooled.as_ref())?
            };
        }
        Ok(x)
    }

    fn block(
        &self,
        tape: &Tape,
        bound: &Bound,
        layer: usize,
        x: &Var,
        segments: &Segments,
        pooled: Option<&Tensor>,
    ) -> Result<Var> {
        let p = format!("{}{layer}.", self.prefix);
        let pair = |w: &str, b: &str| (format!("{p}{w}"), format!("{p}{b}"));
        let none = Activation::None;
        let h = layer_norm(tape, bound, &format!("{p}ln_1"), x)?;
        let in_proj = pair("attn.in_proj_weight", "attn.in_proj_bias");
        let qkv = linear(tape, bound, in_proj, &h, None, none)?;
        let heads = qkv.value().width() / (3 * self.head_width);
        let h = ops::attention(tape, &qkv, segments, heads, self.causal)?;
        let (h, x) = match pooled {
            Some(rows) => (
                ops::select_rows(tape, &h, rows)?,
                ops::select_rows(tape, x, rows)?,
            ),
            None => (h, x.clone()),
        };
        let out_proj = pair("attn.out_proj.weight", "attn.out_proj.bias");
        let x = linear(tape, bound, out_proj, &h, Some(&x), none)?;
        let h = layer_norm(tape, bound, &format!("{p}ln_2"), &x)?;
        let c_fc = pair("mlp.c_fc.weight", "mlp.c_fc.bias");
        let h = linear(tape, bound, c_fc, &h, None, self.act)?;
        let c_proj = pair("mlp.c_proj.weight", "mlp.c_proj.bias");
        linear(tape, bound, c_proj, &h, Some(&x), none)
    }
}
