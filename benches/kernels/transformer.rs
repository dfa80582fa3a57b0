//! Linear layers, attention, LayerNorm.

use crate::bench::Bench;
use clip_distill::autodiff::Tape;
use clip_distill::backend::{
    Activation, AttentionBackward, LayerNormBackward, LinearBackward, Segments,
};
use clip_distill::ops;
use std::hint::black_box;

impl Bench {
    pub fn linear(&mut self, rows: usize, inner: usize, out: usize, act: Activation) {
        let device = self.backend.clone();
        let (x, w) = (self.tensor(&[rows, inner]), self.tensor(&[out, inner]));
        let (b, dy) = (self.tensor(&[out]), self.tensor(&[rows, out]));
        let flop = 2.0 * (rows * inner * out) as f64;
        let name = format!("linear {rows}×{inner}→{out} {act:?}");
        self.products(&format!("{name} forward"), flop, || {
            let y = device.linear(&x, &w, Some(&b), None, act, true);
            black_box(y.expect("linear"));
        });
        let pre = (act != Activation::None).then_some(&dy);
        self.products(&format!("{name} backward"), 2.0 * flop, || {
            let (mut dx, mut dw, mut db) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dw), Some(&mut db));
            device
                .linear_backward(
                    LinearBackward {
                        dy: &dy,
                        x: &x,
                        w: &w,
                        pre,
                        act,
                    },
                    slots.0,
                    slots.1,
                    slots.2,
                )
                .expect("linear");
            black_box((dx, dw, db));
        });
    }

    /// A product of two matrices of n × n.
    pub fn square(&mut self, n: usize) {
        let device = self.backend.clone();
        let name = format!("matmul {n}³");
        if !self.wants(&name) {
            return;
        }
        let x = self.tensor(&[n, n]);
        self.products(&name, 2.0 * (n as f64).powi(3), || {
            black_box(device.matmul(&x, &x).expect("matmul"));
        });
    }

    /// A transformer block forward and backward, as the towers have it: with LayerNorm before attention and MLP.
    pub fn block(&mut self, width: usize) {
        let (batch, length) = (self.batch, 197);
        let rows = batch * length;
        let name = format!("block {batch} × {length}×{width}, forward and backward");
        if !self.wants(&name) {
            return;
        }
        let device = self.backend.clone();
        let segments = Segments::new(device.as_ref(), vec![length; batch]).expect("segments");
        let dy = self.tensor(&[rows, width]);
        let shapes = [
            vec![rows, width],
            vec![width],
            vec![width],
            vec![3 * width, width],
            vec![3 * width],
            vec![width, width],
            vec![width],
            vec![width],
            vec![width],
            vec![4 * width, width],
            vec![4 * width],
            vec![width, 4 * width],
            vec![width],
        ];
        let values = shapes.map(|shape| {
            let size = 1.0 / (shape[shape.len() - 1] as f32).sqrt();
            self.small(&shape, size)
        });
        let block = || -> ops::Result<()> {
            let tape = Tape::new(device.clone());
            let vars = values.each_ref().map(|v| tape.leaf(v.clone()));
            let [
                x,
                g1,
                b1,
                w_in,
                b_in,
                w_out,
                b_out,
                g2,
                b2,
                w_fc,
                b_fc,
                w_proj,
                b_proj,
            ] = &vars;
            let none = Activation::None;
            let h = ops::layer_norm(&tape, x, g1, b1, 1e-5)?;
            let qkv = ops::linear(&tape, &h, w_in, Some(b_in), None, none)?;
            let h = ops::attention(&tape, &qkv, &segments, width / 64, false)?;
            let x = ops::linear(&tape, &h, w_out, Some(b_out), Some(x), none)?;
            let h = ops::layer_norm(&tape, &x, g2, b2, 1e-5)?;
            let h = ops::linear(&tape, &h, w_fc, Some(b_fc), None, Activation::Gelu)?;
            let y = ops::linear(&tape, &h, w_proj, Some(b_proj), Some(&x), none)?;
            black_box(tape.backward_from(&[(&y, dy.clone())])?);
            Ok(())
        };
        let flop = 3.0 * (rows * width) as f64 * (24 * width + 4 * length) as f64;
        self.products(&name, flop, || block().expect("block"));
    }

    /// `batch` sequences of `length` tokens, heads of 64 columns.
    pub fn attention(&mut self, length: usize, heads: usize, causal: bool) {
        let (device, batch) = (self.backend.clone(), self.batch);
        let segments = Segments::new(device.as_ref(), vec![length; batch]).expect("segments");
        let (total, width) = (batch * length, heads * 64);
        let qkv = self.tensor(&[total, 3 * width]);
        let dout = self.tensor(&[total, width]);
        let pairs = (total * length * width) as f64;
        let flop = 4.0 * pairs * if causal { 0.5 } else { 1.0 };
        let order = if causal { " causal" } else { "" };
        let name = format!("attention {batch} × {length}{order}, {heads} heads");
        let (out, lse) = device
            .attention(&qkv, &segments, heads, causal)
            .expect("attention");
        self.products(&format!("{name} forward"), flop, || {
            let y = device.attention(&qkv, &segments, heads, causal);
            black_box(y.expect("attention"));
        });
        self.products(&format!("{name} backward"), 2.5 * flop, || {
            let mut dqkv = None;
            let slot = Some(&mut dqkv);
            device
                .attention_backward(
                    AttentionBackward {
                        dout: &dout,
                        qkv: &qkv,
                        out: &out,
                        lse: &lse,
                        segments: &segments,
                        heads,
                        causal,
                    },
                    slot,
                )
                .expect("attention");
            black_box(dqkv);
        });
    }

    pub fn layer_norm(&mut self, rows: usize, width: usize) {
        let device = self.backend.clone();
        let (x, dy) = (self.tensor(&[rows, width]), self.tensor(&[rows, width]));
        let (g, b) = (self.tensor(&[width]), self.tensor(&[width]));
        let norm = device.layer_norm(&x, &g, &b, 1e-5).expect("layer_norm");
        let name = format!("layer_norm {rows}×{width}");
        self.moves(&format!("{name} forward"), 2 * x.len(), || {
            black_box(device.layer_norm(&x, &g, &b, 1e-5).expect("layer_norm"));
        });
        self.moves(&format!("{name} backward"), 3 * x.len(), || {
            let (mut dx, mut dg, mut db) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dg), Some(&mut db));
            device
                .layer_norm_backward(
                    LayerNormBackward {
                        dy: &dy,
                        x: &x,
                        gamma: &g,
                        mean: &norm.mean,
                        rstd: &norm.rstd,
                    },
                    slots.0,
                    slots.1,
                    slots.2,
                )
                .expect("layer_norm");
            black_box((dx, dg, db));
        });
    }
}
