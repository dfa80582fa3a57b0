//! Pieces of a transformer tower: a ViT or the text tower.

use super::super::init;
use super::{Axis, Gate, Piece, Tower};
use crate::model::ClipConfig;

/// What a smaller transformer keeps of a bigger one.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Channels of the residual stream, ascending.
    pub width: Vec<usize>,
    /// Blocks in their order.
    pub blocks: Vec<KeptBlock>,
}

/// What is kept of one block.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptBlock {
    /// Its number in the bigger model.
    pub from: usize,
    /// Heads, ascending.
    pub heads: Vec<usize>,
    /// Hidden channels of the MLP, ascending.
    pub mlp: Vec<usize>,
}

/// What is kept at a tower's ends, where no gate stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// Leading dimensions of the shared embedding.
    pub embed_dim: usize,
    /// Leading positions of a text.
    pub context_length: usize,
    /// Rows of the token table.
    pub tokens: Vec<usize>,
}

impl Ends {
    /// The ends of `small`, of leading merges and the last two tokens, start and end.
    pub fn of(big: &ClipConfig, small: &ClipConfig) -> Self {
        let (all, some) = (big.text_cfg.vocab_size, small.text_cfg.vocab_size);
        Self {
            embed_dim: small.embed_dim,
            context_length: small.text_cfg.context_length,
            tokens: (0..some - 2).chain([all - 2, all - 1]).collect(),
        }
    }
}

/// Where the names of a tower's blocks begin.
pub(super) fn blocks_prefix(tower: Tower) -> &'static str {
    match tower {
        Tower::Image => "visual.transformer.resblocks.",
        Tower::Text => "transformer.resblocks.",
    }
}

/// Width of a tower's residual stream, its number of heads, and of its blocks.
fn sizes(config: &ClipConfig, tower: Tower) -> (usize, usize, usize) {
    let (v, t) = (&config.vision_cfg, &config.text_cfg);
    match tower {
        Tower::Image => (v.width, v.heads(), v.layers.blocks()),
        Tower::Text => (t.width, t.heads, t.layers),
    }
}

/// TinyCLIP's `interval_front`: blocks at equal intervals from the first, the leading part of each.
pub(super) fn leading(big: &ClipConfig, small: &ClipConfig, tower: Tower) -> Vec<Piece> {
    let (_, _, all) = sizes(big, tower);
    let (width, heads, layers) = sizes(small, tower);
    let mlp = match tower {
        Tower::Image => small.vision_cfg.mlp_width(),
        Tower::Text => small.text_cfg.mlp_width(),
    };
    let kept = Kept {
        width: (0..width).collect(),
        blocks: (0..layers)
            .map(|i| KeptBlock {
                from: i * (all / layers),
                heads: (0..heads).collect(),
                mlp: (0..mlp).collect(),
            })
            .collect(),
    };
    pieces(big, tower, &kept, &Ends::of(big, small))
}

/// The pieces of a tower of `big` that `kept` and `ends` make, in the order of the tower's parameters.
///
/// The gates stand where TinyCLIP's masked forward multiplies activations: the embeddings' sum and each
/// branch's output by the residual stream's, attention's output by the heads', the MLP's hidden values by
/// their own. Multiplying the rows and columns of the weights that make or read those values is the same.
pub fn pieces(big: &ClipConfig, tower: Tower, kept: &Kept, ends: &Ends) -> Vec<Piece> {
    let (width, heads, _) = sizes(big, tower);
    let all = |n: usize| Axis::of(0..n);
    let channels = || Axis::of(kept.width.iter().copied());
    let entering = || channels().gated(Gate::Width);
    let mut out = Vec::new();
    for (name, shape, _) in init::plan(big) {
        if !tower.owns(&name) || name.starts_with(blocks_prefix(tower)) {
            continue;
        }
        let same = || (name.clone(), name.clone());
        let matrix = |rows, columns| Piece::matrix(same().0, same().1, rows, columns);
        let vector = |rows| Piece::vector(same().0, same().1, rows);
        out.push(match name.as_str() {
            "visual.class_embedding" => vector(entering()),
            "visual.positional_embedding" => matrix(all(shape[0]), entering()),
            "visual.conv1.weight" => matrix(entering(), all(shape[1])),
            "positional_embedding" => matrix(all(ends.context_length), entering()),
            "token_embedding.weight" => matrix(Axis::of(ends.tokens.iter().copied()), entering()),
            "visual.proj" | "text_projection" => matrix(channels(), all(ends.embed_dim)),
            // LayerNorms.
            _ => vector(channels()),
        });
    }
    let head_width = width / heads;
    for (i, block) in kept.blocks.iter().enumerate() {
        let prefix = blocks_prefix(tower);
        let at = |name: &str| {
            let small = format!("{prefix}{i}.{name}");
            (small, format!("{prefix}{}.{name}", block.from))
        };
        let of_heads = |part: usize| {
            let first = move |head: &usize| part * width + head * head_width;
            let heads = block.heads.iter().map(first);
            heads.flat_map(move |first| first..first + head_width)
        };
        let qkv = || Axis::of((0..3).flat_map(of_heads));
        let branch = || channels().gated(Gate::Branch(i));
        let hidden = || Axis::of(block.mlp.iter().copied());
        let matrix = |name: &str, rows, columns| {
            let (small, from) = at(name);
            Piece::matrix(small, from, rows, columns)
        };
        let vector = |name: &str, rows| {
            let (small, from) = at(name);
            Piece::vector(small, from, rows)
        };
        let attended = Axis::of(of_heads(0)).gated(Gate::Heads(i));
        let active = hidden().gated(Gate::Mlp(i));
        out.extend([
            vector("ln_1.weight", channels()),
            vector("ln_1.bias", channels()),
            matrix("attn.in_proj_weight", qkv(), channels()),
            vector("attn.in_proj_bias", qkv()),
            matrix("attn.out_proj.weight", branch(), attended),
            vector("attn.out_proj.bias", branch()),
            vector("ln_2.weight", channels()),
            vector("ln_2.bias", channels()),
            matrix("mlp.c_fc.weight", hidden(), channels()),
            vector("mlp.c_fc.bias", hidden()),
            matrix("mlp.c_proj.weight", branch(), active),
            vector("mlp.c_proj.bias", branch()),
        ]);
    }
    out
}
