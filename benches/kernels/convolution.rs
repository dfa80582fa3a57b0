//! What ResNets are made of.

use crate::bench::Bench;
use clip_distill::backend::{
    AttentionPoolBackward, BatchNormBackward, BatchNormForward, Convolution,
};
use std::hint::black_box;

impl Bench {
    pub fn conv2d(&mut self, side: usize, inputs: usize, outputs: usize, stride: usize) {
        let (device, batch) = (self.backend.clone(), self.batch);
        let shape = Convolution {
            kernel: 3,
            stride,
            padding: 1,
        };
        let x = self.tensor(&[batch, side, side, inputs]);
        let w = self.tensor(&[outputs, 9 * inputs]);
        let small = shape.output(side);
        let dy = self.tensor(&[batch, small, small, outputs]);
        let flop = 2.0 * (batch * small * small * 9 * inputs * outputs) as f64;
        let name = format!("conv2d {batch} × {side}²×{inputs}→{outputs} /{stride}");
        self.products(&format!("{name} forward"), flop, || {
            black_box(device.conv2d(&x, &w, shape).expect("conv2d"));
        });
        // An image has no gradient.
        let wanted = if inputs == 3 { 1.0 } else { 2.0 };
        self.products(&format!("{name} backward"), wanted * flop, || {
            let (mut dx, mut dw) = (None, None);
            let dx_slot = (inputs != 3).then_some(&mut dx);
            device
                .conv2d_backward(&dy, &x, &w, shape, dx_slot, Some(&mut dw))
                .expect("conv2d");
            black_box((dx, dw));
        });
    }

    pub fn batch_norm(&mut self, side: usize, channels: usize) {
        let device = self.backend.clone();
        let shape = [self.batch, side, side, channels];
        let (x, dy) = (self.tensor(&shape), self.tensor(&shape));
        let (g, b) = (self.tensor(&[channels]), self.tensor(&[channels]));
        let moments = device.batch_moments(&x).expect("moments");
        let y = device.batch_norm(BatchNormForward {
            x: &x,
            gamma: &g,
            beta: &b,
            moments: &moments,
            eps: 1e-5,
            residual: None,
            relu: true,
        });
        let y = y.expect("batch_norm");
        let name = format!("batch_norm + ReLU {} × {side}²×{channels}", self.batch);
        // x is read for its moments, and again.
        self.moves(&format!("{name} forward"), 3 * x.len(), || {
            let moments = device.batch_moments(&x).expect("moments");
            let y = device.batch_norm(BatchNormForward {
                x: &x,
                gamma: &g,
                beta: &b,
                moments: &moments,
                eps: 1e-5,
                residual: None,
                relu: true,
            });
            black_box(y.expect("batch_norm"));
        });
        // dy, x and y are read for the sums, and again for dx.
        self.moves(&format!("{name} backward"), 7 * x.len(), || {
            let (mut dx, mut dg, mut db) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dg), Some(&mut db));
            device
                .batch_norm_backward(
                    BatchNormBackward {
                        dy: &dy,
                        x: &x,
                        y: Some(&y),
                        gamma: &g,
                        moments: &moments,
                        eps: 1e-5,
                        of_batch: true,
                    },
                    slots.0,
                    slots.1,
                    slots.2,
                    None,
                )
                .expect("batch_norm");
            black_box((dx, dg, db));
        });
    }

    pub fn pools(&mut self) {
        let (device, batch) = (self.backend.clone(), self.batch);
        let shape = [batch, 56, 56, 256];
        let x = self.tensor(&shape);
        let y = device.avg_pool(&x, 2).expect("avg_pool");
        let (moved, name) = (
            x.len() + y.len(),
            format!("avg_pool {batch} × 56²×256 by 2"),
        );
        self.moves(&format!("{name} forward"), moved, || {
            black_box(device.avg_pool(&x, 2).expect("avg_pool"));
        });
        self.moves(&format!("{name} backward"), moved, || {
            let mut dx = None;
            device
                .avg_pool_backward(&y, &shape, 2, Some(&mut dx))
                .expect("avg_pool");
            black_box(dx);
        });
        let shape = [batch, 7, 7, 2048];
        let x = self.tensor(&shape);
        let positions = self.tensor(&[50, 2048]);
        let tokens = device.prepend_mean(&x, &positions).expect("tokens");
        let (moved, name) = (
            x.len() + tokens.len(),
            format!("prepend_mean {batch} × 7²×2048"),
        );
        self.moves(&format!("{name} forward"), moved, || {
            black_box(device.prepend_mean(&x, &positions).expect("tokens"));
        });
        self.moves(&format!("{name} backward"), moved, || {
            let (mut dx, mut dp) = (None, None);
            device
                .prepend_mean_backward(&tokens, &shape, Some(&mut dx), Some(&mut dp))
                .expect("tokens");
            black_box((dx, dp));
        });
        let q = self.tensor(&[batch, 2048]);
        let name = format!("attention_pool {batch} × 50, 32 heads");
        let pool = || {
            device
                .attention_pool(&q, &tokens, &tokens, 32)
                .expect("pool")
        };
        let (out, probabilities) = pool();
        self.moves(&format!("{name} forward"), 2 * tokens.len(), || {
            black_box(pool());
        });
        // Keys and values are read, and their gradients written.
        self.moves(&format!("{name} backward"), 4 * tokens.len(), || {
            let (mut dq, mut dk, mut dv) = (None, None, None);
            let slots = (Some(&mut dq), Some(&mut dk), Some(&mut dv));
            device
                .attention_pool_backward(
                    AttentionPoolBackward {
                        dout: &out,
                        q: &q,
                        k: &tokens,
                        v: &tokens,
                        probabilities: &probabilities,
                    },
                    slots.0,
                    slots.1,
                    slots.2,
                )
                .expect("pool");
            black_box((dq, dk, dv));
        });
    }
}
