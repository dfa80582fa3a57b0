//! The gates of one tower, and what they leave of it.

use super::concrete::{self, LIMIT};
use crate::model::ClipConfig;
use crate::model::inherit::{Gate, Kept, KeptBlock, Tower};
use crate::tensor::rng::Philox;
use std::ops::Range;

/// Sizes of a transformer tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) head_width: usize,
    pub(super) mlp: usize,
    pub(super) layers: usize,
}

impl Sizes {
    pub(super) fn of(config: &ClipConfig, tower: Tower) -> Self {
        let (v, t) = (&config.vision_cfg, &config.text_cfg);
        match tower {
            Tower::Image => Self {
                heads: v.heads(),
                head_width: v.head_width,
                mlp: v.mlp_width(),
                layers: v.layers.blocks(),
            },
            Tower::Text => Self {
                heads: t.heads,
                head_width: t.width / t.heads,
                mlp: t.mlp_width(),
                layers: t.layers,
            },
        }
    }

    pub(super) fn width(self) -> usize {
        self.heads * self.head_width
    }

    /// Elements of all blocks' matrices: in each 4 width² of attention and 2 width · mlp.
    pub(super) fn weights(self) -> f64 {
        let (w, m) = (self.width() as f64, self.mlp as f64);
        self.layers as f64 * (4.0 * w * w + 2.0 * w * m)
    }

    // One number a gate: channels of the residual stream, heads, hidden MLP channels, blocks.

    pub(super) fn gates(self) -> usize {
        self.width() + self.layers * (self.heads + self.mlp + 1)
    }

    pub(super) fn heads_of(self, layer: usize) -> Range<usize> {
        let first = self.width() + layer * self.heads;
        first..first + self.heads
    }

    pub(super) fn mlp_of(self, layer: usize) -> Range<usize> {
        let first = self.width() + self.layers * self.heads + layer * self.mlp;
        first..first + self.mlp
    }

    pub(super) fn block(self, layer: usize) -> usize {
        self.width() + self.layers * (self.heads + self.mlp) + layer
    }

    /// Elements of the blocks' matrices where each gate is there with probability p, all independently:
    /// N = S Σ_l b_l (4 head_width Σ h_l + 2 Σ m_l), S the sum over the residual stream; and ∂N/∂p.
    pub(super) fn expected(self, p: &[f64]) -> (f64, Vec<f64>) {
        let sum = |range: Range<usize>| p[range].iter().sum::<f64>();
        let stream = sum(0..self.width());
        let each_head = 4.0 * self.head_width as f64;
        let mut slope = vec![0.0; p.len()];
        let mut blocks = 0.0;
        for layer in 0..self.layers {
            let inner = each_head * sum(self.heads_of(layer)) + 2.0 * sum(self.mlp_of(layer));
            let block = p[self.block(layer)];
            blocks += block * inner;
            slope[self.block(layer)] = stream * inner;
            slope[self.heads_of(layer)].fill(stream * block * each_head);
            slope[self.mlp_of(layer)].fill(stream * block * 2.0);
        }
        slope[..self.width()].fill(blocks);
        (stream * blocks, slope)
    }
}

/// The gates of a tower at one moment: what is kept, and by what it is multiplied.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) tower: Tower,
    pub(super) sizes: Sizes,
    pub(super) kept: Kept,
    /// By gate.
    pub(super) z: Vec<f64>,
    /// ∂z/∂ ln α by gate.
    pub(super) slope: Vec<f64>,
}

/// Those of `range` that are open, counted from its start; the first if none is, which then multiplies by 0.
fn open_ones(z: &[f64], range: Range<usize>) -> Vec<usize> {
    let open = z[range].iter().enumerate().filter(|(_, z)| **z > 0.0);
    let open: Vec<usize> = open.map(|(i, _)| i).collect();
    if open.is_empty() { vec![0] } else { open }
}

/// The `n` largest of `logits`, ascending; of equal ones the first.
fn largest(logits: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(n);
    order.sort_unstable();
    order
}

impl Opened {
    /// Draws every gate once.
    pub(super) fn draw(tower: Tower, sizes: Sizes, logits: &[f32], rng: &mut Philox) -> Self {
        let draws = logits
            .iter()
            .map(|&logit| concrete::draw(f64::from(logit), f64::from(rng.uniform())));
        let (z, slope): (Vec<f64>, Vec<f64>) = draws.unzip();
        let blocks = (0..sizes.layers).map(|layer| sizes.block(layer));
        let first = sizes.block(0);
        let open = open_ones(&z, first..first + blocks.len());
        let blocks = open.into_iter().map(|from| KeptBlock {
            from,
            heads: open_ones(&z, sizes.heads_of(from)),
            mlp: open_ones(&z, sizes.mlp_of(from)),
        });
        let kept = Kept {
            width: open_ones(&z, 0..sizes.width()),
            blocks: blocks.collect(),
        };
        Self {
            tower,
            sizes,
            kept,
            z,
            slope,
        }
    }

    /// The gates that stay when training them is over. An open_clip configuration gives every block of a tower
    /// the same number of heads and of hidden channels, and heads that fill the width: so of each kind the
    /// gates with the largest logits stay, equally many in every block (TinyCLIP keeps each block's own
    /// number, and a loader of its own). The numbers are those nearest to what the gates expect that give
    /// `weights` elements in the blocks' matrices.
    pub(super) fn for_good(tower: Tower, sizes: Sizes, logits: &[f32], weights: f64) -> Self {
        let p = |i: usize| concrete::open(f64::from(logits[i])).0;
        let sum = |range: Range<usize>| range.map(p).sum::<f64>();
        let first = sizes.block(0);
        let layers = sum(first..first + sizes.layers).round();
        let layers = (layers as usize).clamp(1, sizes.layers);
        let blocks = largest(&logits[first..first + sizes.layers], layers);
        let heads: f64 = blocks.iter().map(|&l| sum(sizes.heads_of(l))).sum();
        let heads = heads / layers as f64;
        let heads = 0.5 * (heads + sum(0..sizes.width()) / sizes.head_width as f64);
        let (heads, mlp) = fitting(sizes, heads, weights / layers as f64);
        let kept = Kept {
            width: largest(&logits[..sizes.width()], heads * sizes.head_width),
            blocks: blocks
                .into_iter()
                .map(|from| KeptBlock {
                    from,
                    heads: largest(&logits[sizes.heads_of(from)], heads),
                    mlp: largest(&logits[sizes.mlp_of(from)], mlp),
                })
                .collect(),
        };
        let z = logits.iter().map(|&l| concrete::kept(f64::from(l)));
        Self {
            tower,
            sizes,
            kept,
            z: z.collect(),
            slope: vec![0.0; logits.len()],
        }
    }

    /// Every gate whose factors multiply weights.
    pub(super) fn gates(&self) -> Vec<Gate> {
        let blocks = 0..self.kept.blocks.len();
        let of_block = blocks.flat_map(|i| [Gate::Branch(i), Gate::Heads(i), Gate::Mlp(i)]);
        std::iter::once(Gate::Width).chain(of_block).collect()
    }

    /// For each factor of `gate` the one or two numbers of z whose product it is.
    fn behind(&self, gate: Gate) -> Vec<(usize, Option<usize>)> {
        let block = |i: usize| &self.kept.blocks[i];
        let one = |i: usize| (i, None);
        match gate {
            Gate::Width => self.kept.width.iter().copied().map(one).collect(),
            Gate::Branch(i) => {
                let own = Some(self.sizes.block(block(i).from));
                self.kept.width.iter().map(|&c| (c, own)).collect()
            }
            Gate::Heads(i) => {
                let first = self.sizes.heads_of(block(i).from).start;
                let each = self.sizes.head_width;
                let heads = block(i).heads.iter();
                heads
                    .flat_map(|&h| std::iter::repeat_n(one(first + h), each))
                    .collect()
            }
            Gate::Mlp(i) => {
                let first = self.sizes.mlp_of(block(i).from).start;
                block(i).mlp.iter().map(|&m| one(first + m)).collect()
            }
        }
    }

    /// The factors of `gate`, along its axis.
    pub(super) fn factors(&self, gate: Gate) -> Vec<f32> {
        let product = |(a, b): (usize, Option<usize>)| self.z[a] * b.map_or(1.0, |b| self.z[b]);
        let behind = self.behind(gate).into_iter();
        behind.map(|pair| product(pair) as f32).collect()
    }

    /// Adds to the gradient by each gate's logit what the gradient by the factors of `gate` makes of it.
    pub(super) fn gather(&self, gate: Gate, by_factor: &[f32], by_logit: &mut [f64]) {
        for ((a, b), &d) in self.behind(gate).into_iter().zip(by_factor) {
            let d = f64::from(d);
            by_logit[a] += d * b.map_or(1.0, |b| self.z[b]) * self.slope[a];
            if let Some(b) = b {
                by_logit[b] += d * self.z[a] * self.slope[b];
            }
        }
    }

    /// The smaller tower's heads and hidden channels, where all blocks have equally many, and its blocks.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let first = self.kept.blocks.first();
        let (heads, mlp) = first.map_or((0, 0), |b| (b.heads.len(), b.mlp.len()));
        (heads, mlp, self.kept.blocks.len())
    }
}

/// The number of heads nearest to `expected` for which some number of hidden channels makes a block of
/// `weights` elements, and that number.
fn fitting(sizes: Sizes, expected: f64, weights: f64) -> (usize, usize) {
    let hidden = |heads: usize| {
        let w = (heads * sizes.head_width) as f64;
        ((weights - 4.0 * w * w) / (2.0 * w)).round()
    };
    let mut counts: Vec<usize> = (1..=sizes.heads).collect();
    let distance = |&heads: &usize| (heads as f64 - expected).abs();
    counts.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let fits = |&&heads: &&usize| (1.0..=sizes.mlp as f64).contains(&hidden(heads));
    let heads = counts.iter().find(fits).or(counts.first());
    let heads = heads.copied().unwrap_or(1);
    (heads, hidden(heads).clamp(1.0, sizes.mlp as f64) as usize)
}

/// Every gate's first logit.
pub(super) fn beginning(sizes: Sizes) -> Vec<f32> {
    vec![LIMIT; sizes.gates()]
}
