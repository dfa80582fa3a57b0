//! What does little but move memory: images, tokens, rows, the optimiser.

use crate::bench::Bench;
use clip_distill::backend::{AdamWStep, AdamWTensor, Clipping, EmbeddingBackward};
use clip_distill::tensor::Normalisation;
use std::hint::black_box;

impl Bench {
    /// From pixels to the tokens of 14 × 14 patches and a class.
    pub fn tokens(&mut self, width: usize) {
        let (device, batch) = (self.backend.clone(), self.batch);
        let shape = [batch, 224, 224, 3];
        let pixels = vec![100u8; shape.iter().product()];
        let read = || {
            let images = device.images(&shape, &pixels, &Normalisation::OPENAI);
            images.expect("images")
        };
        let images = read();
        let bytes = (1 + self.element) * images.len();
        self.bytes(
            &format!("images {batch} × 224², from the host"),
            bytes,
            || {
                black_box(read());
            },
        );
        let name = format!("patchify {batch} × 224² by 16");
        self.moves(&name, 2 * images.len(), || {
            black_box(device.patchify(&images, 16).expect("patchify"));
        });
        let patches = self.tensor(&[batch * 196, width]);
        let (class, positions) = (self.tensor(&[width]), self.tensor(&[197, width]));
        let prepend = || {
            let tokens = device.prepend_class(&patches, &class, &positions);
            tokens.expect("prepend_class")
        };
        let tokens = prepend();
        let (moved, name) = (
            2 * tokens.len(),
            format!("prepend_class {batch} × 196×{width}"),
        );
        self.moves(&format!("{name} forward"), moved, || {
            black_box(prepend());
        });
        self.moves(&format!("{name} backward"), moved, || {
            let (mut dx, mut dc, mut dp) = (None, None, None);
            let slots = (Some(&mut dx), Some(&mut dc), Some(&mut dp));
            device
                .prepend_class_backward(&tokens, 196, slots.0, slots.1, slots.2)
                .expect("prepend_class");
            black_box((dx, dc, dp));
        });
        let first = (0..batch as i32).map(|i| 197 * i).collect::<Vec<_>>();
        let first = device.upload_i32(&[batch], &first).expect("upload");
        let name = format!("select_rows {batch} of {}×{width}", tokens.rows());
        self.moves(&format!("{name} forward"), 2 * batch * width, || {
            black_box(device.select_rows(&tokens, &first).expect("select_rows"));
        });
        let rows = device.select_rows(&tokens, &first).expect("select_rows");
        // All other rows become zero.
        let moved = rows.len() + tokens.len();
        self.moves(&format!("{name} backward"), moved, || {
            let mut dx = None;
            device
                .select_rows_backward(&rows, &first, tokens.rows(), Some(&mut dx))
                .expect("select_rows");
            black_box(dx);
        });
    }

    /// The embedding of `batch` texts of `length` tokens.
    pub fn texts(&mut self, length: usize, width: usize) {
        let (device, vocab, context) = (self.backend.clone(), 49408, 77);
        let rows = self.batch * length;
        let (table, positions) = (self.tensor(&[vocab, width]), self.tensor(&[context, width]));
        let (ids, pos) = (self.index(rows, vocab), self.index(rows, length));
        let embed = || {
            let y = device.embedding(&table, &positions, &ids, &pos);
            y.expect("embedding")
        };
        let name = format!("embedding {rows}×{width}");
        // Both tables are f32.
        let bytes = (8 + self.element) * rows * width;
        self.bytes(&format!("{name} forward"), bytes, || {
            black_box(embed());
        });
        let dy = embed();
        // dy is read for both tables, and the vocabulary's gradient is written as a whole.
        let bytes = 2 * self.element * dy.len() + 4 * table.len();
        self.bytes(&format!("{name} backward"), bytes, || {
            let (mut dt, mut dp) = (None, None);
            device
                .embedding_backward(
                    EmbeddingBackward {
                        dy: &dy,
                        ids: &ids,
                        pos: &pos,
                        vocab,
                        context,
                    },
                    Some(&mut dt),
                    Some(&mut dp),
                )
                .expect("embedding");
            black_box((dt, dp));
        });
    }

    /// Features of the batch, `[batch, width]`, in f32.
    pub fn rows(&mut self, width: usize) {
        let (device, n) = (self.backend.clone(), self.batch * width);
        let x = self.tensor(&[self.batch, width]);
        let (y, norms) = device.l2_normalize(&x).expect("l2_normalize");
        let name = format!("l2_normalize {}×{width}", self.batch);
        self.bytes(&format!("{name} forward"), 8 * n, || {
            black_box(device.l2_normalize(&x).expect("l2_normalize"));
        });
        self.bytes(&format!("{name} backward"), 12 * n, || {
            let mut dx = None;
            device
                .l2_normalize_backward(&x, &y, &norms, Some(&mut dx))
                .expect("l2_normalize");
            black_box(dx);
        });
    }

    /// A step over `n` parameters in one tensor: norm of the gradient, then AdamW.
    pub fn optimiser(&mut self, n: usize) {
        let device = self.backend.clone();
        let grad = self.tensor(&[n]);
        self.bytes(&format!("grad_norm {n}"), 4 * n, || {
            black_box(device.grad_norm(&[&grad]).expect("grad_norm"));
        });
        let norm = device.grad_norm(&[&grad]).expect("grad_norm");
        let mut param = self.tensor(&[n]);
        let [mut m, mut v] = [(); 2].map(|()| device.zeros(&[n]).expect("zeros"));
        // Four are read and three written.
        self.bytes(&format!("adamw {n}"), 28 * n, || {
            let tensor = AdamWTensor {
                param: &mut param,
                grad: &grad,
                m: &mut m,
                v: &mut v,
                weight_decay: 0.1,
            };
            let step = AdamWStep {
                lr: 1e-4,
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
                step: 1,
                clip: Some(Clipping {
                    norm: &norm,
                    max: 1.0,
                }),
                scaled: None,
            };
            device.adamw(&mut [tensor], step).expect("adamw");
        });
    }
}
