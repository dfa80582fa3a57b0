//! Weight inheritance (TinyCLIP: Wu et al., arXiv 2309.12314): a smaller model begins with a part of a bigger
//! one's weights.
//!
//! Which part is a list of [`Piece`]s: for each parameter of the smaller model, the bigger one's parameter and
//! the rows and columns taken of it. *Manual* inheritance ([`manual`]) takes layers at equal intervals and the
//! leading heads and channels. *Automatic* inheritance trains gates (`train::gates`) that say which heads,
//! channels and layers are worth keeping; its pieces come from [`pieces`] and carry the gates as factors.

mod resnet;
mod transformer;

pub use transformer::{Ends, Kept, KeptBlock, pieces};

use super::{BatchNorm, ClipConfig, Error, Layers, Parameters, Result};
use crate::backend::{Backend, Moments};

/// One of a model's two towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tower {
    /// The ViT or ResNet.
    Image,
    /// The text transformer.
    Text,
}

impl Tower {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Image, Self::Text];

    /// Its name in messages and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
        }
    }

    /// Whether it has the parameter of that name. The logit scale is neither's.
    pub fn owns(self, name: &str) -> bool {
        match self {
            Self::Image => name.starts_with("visual."),
            Self::Text => !name.starts_with("visual.") && name != LOGIT_SCALE,
        }
    }
}

const LOGIT_SCALE: &str = "logit_scale";

/// A factor of automatic inheritance along one axis of a parameter. Blocks are counted in the smaller model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Of the residual stream's channels, where the embeddings enter it.
    Width,
    /// Of the same channels, where a block's attention and MLP add to it: the block's own gate beside theirs.
    Branch(usize),
    /// Of a block's heads, one factor a channel.
    Heads(usize),
    /// Of a block's hidden MLP channels.
    Mlp(usize),
}

/// What is taken along one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Positions in the bigger parameter, ascending.
    pub indices: Vec<usize>,
    /// What multiplies them in automatic inheritance.
    pub gate: Option<Gate>,
}

impl Axis {
    fn of(indices: impl IntoIterator<Item = usize>) -> Self {
        Self {
            indices: indices.into_iter().collect(),
            gate: None,
        }
    }

    fn gated(self, gate: Gate) -> Self {
        let gate = Some(gate);
        Self { gate, ..self }
    }
}

/// Where a parameter of the smaller model comes from. Shapes are the engine's; one of a single dimension is a
/// row.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The smaller model's parameter.
    pub name: String,
    /// The bigger model's parameter.
    pub from: String,
    /// The smaller parameter's shape.
    pub shape: Vec<usize>,
    /// Rows that are taken.
    pub rows: Axis,
    /// Columns that are taken.
    pub columns: Axis,
}

impl Piece {
    fn vector(name: String, from: String, columns: Axis) -> Self {
        Self {
            name,
            from,
            shape: vec![columns.indices.len()],
            rows: Axis::of([0]),
            columns,
        }
    }

    fn matrix(name: String, from: String, rows: Axis, columns: Axis) -> Self {
        Self {
            name,
            from,
            shape: vec![rows.indices.len(), columns.indices.len()],
            rows,
            columns,
        }
    }

    /// The piece of `big`, a matrix of `width` columns: its element (i, j) is `factor(i, j)` times
    /// big[rows_i, columns_j].
    fn cut(&self, big: &[f32], width: usize, factor: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.shape.iter().product());
        for (i, row) in self.rows.indices.iter().enumerate() {
            let line = &big[row * width..][..width];
            let columns = self.columns.indices.iter().enumerate();
            values.extend(columns.map(|(j, &column)| factor(i, j) * line[column]));
        }
        values
    }
}

/// All that a model, or a tower of it, inherits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inheritance {
    /// Parameters.
    pub pieces: Vec<Piece>,
    /// BatchNorms whose running statistics come along: name, name in the bigger model, leading channels.
    pub norms: Vec<(String, String, usize)>,
}

/// TinyCLIP's manual rule (`weight_inherit`) for the `towers` of `small`: layer i of l comes from layer
/// i·⌊L/l⌋ of L, a ResNet's stages each by themselves, and of every head, channel and dimension the leading
/// ones are taken. Where the small vocabulary is shorter, its merges are the leading ones and its two last
/// tokens the bigger one's start and end. With both towers the logit scale comes along.
///
/// # Errors
/// If the small model is anywhere larger than the big one, or differs where nothing can be left out: in its
/// image or patch size, head width, activation, or in being a ResNet.
pub fn manual(big: &ClipConfig, small: &ClipConfig, towers: &[Tower]) -> Result<Inheritance> {
    let mut all = Inheritance::default();
    for &tower in towers {
        check(big, small, tower)?;
        match tower {
            Tower::Image if big.vision_cfg.is_resnet() => resnet::leading(big, small, &mut all),
            _ => all.pieces.extend(transformer::leading(big, small, tower)),
        }
    }
    if Tower::ALL.iter().all(|t| towers.contains(t)) {
        all.pieces.push(logit_scale());
    }
    Ok(all)
}

/// The logit scale as it is.
pub fn logit_scale() -> Piece {
    let name = || LOGIT_SCALE.to_owned();
    Piece::vector(name(), name(), Axis::of([0]))
}

fn check(big: &ClipConfig, small: &ClipConfig, tower: Tower) -> Result<()> {
    let (v, w) = (&big.vision_cfg, &small.vision_cfg);
    let (t, u) = (&big.text_cfg, &small.text_cfg);
    let refuse = |what: String| Err(Error::Inherit(format!("{}: {what}", tower.word())));
    let image = tower == Tower::Image;
    let kind = |resnet: bool| if resnet { "a ResNet" } else { "a ViT" };
    if image && v.is_resnet() != w.is_resnet() {
        return refuse(format!(
            "the bigger model has {}, the smaller one {}",
            kind(v.is_resnet()),
            kind(w.is_resnet())
        ));
    }
    let head = |c: &super::TextConfig| c.width / c.heads;
    let equal = match tower {
        Tower::Image => vec![
            ("image_size", v.image_size, w.image_size),
            ("patch_size", v.cell(), w.cell()),
            ("head_width", v.head_width, w.head_width),
        ],
        Tower::Text => vec![("width of a head", head(t), head(u))],
    };
    if let Some((what, a, b)) = equal.into_iter().find(|(_, a, b)| a != b) {
        return refuse(format!(
            "{what} is {a} in the bigger model and {b} in the smaller one: they must agree"
        ));
    }
    if big.quick_gelu != small.quick_gelu && !(image && v.is_resnet()) {
        return refuse("one model has QuickGELU, the other has not".into());
    }
    let mut bounded = vec![("embed_dim", big.embed_dim, small.embed_dim)];
    match (tower, &v.layers, &w.layers) {
        (Tower::Image, Layers::Stages(a), Layers::Stages(b)) => {
            bounded.push(("width", v.width, w.width));
            bounded.extend(a.iter().zip(b).map(|(&a, &b)| ("layers", a, b)));
        }
        (Tower::Image, ..) => bounded.extend([
            ("width", v.width, w.width),
            ("layers", v.layers.blocks(), w.layers.blocks()),
            ("width of the MLP", v.mlp_width(), w.mlp_width()),
        ]),
        (Tower::Text, ..) => bounded.extend([
            ("width", t.width, u.width),
            ("layers", t.layers, u.layers),
            ("width of the MLP", t.mlp_width(), u.mlp_width()),
            ("context_length", t.context_length, u.context_length),
            ("vocab_size", t.vocab_size, u.vocab_size),
        ]),
    }
    match bounded.into_iter().find(|(_, big, small)| small > big) {
        Some((what, big, small)) => refuse(format!(
            "{what} is {small} in the smaller model, more than the bigger one's {big}"
        )),
        None => Ok(()),
    }
}

impl Inheritance {
    /// Puts the pieces of `big`, which lives on `host`, into `small`, which lives on `backend`. `factor` gives
    /// what a gate multiplies position i of its axis by.
    ///
    /// # Errors
    /// If a parameter is missing, or a device has no memory.
    pub fn apply(
        &self,
        (host, big): (&dyn Backend, &Parameters),
        (backend, small): (&dyn Backend, &mut Parameters),
        factor: impl Fn(Gate, usize) -> f32,
    ) -> Result<()> {
        for piece in &self.pieces {
            let missing = |name: &String| Error::MissingParameter(name.clone());
            let from = big.get(&piece.from).ok_or_else(|| missing(&piece.from))?;
            let along = |axis: &Axis, i: usize| axis.gate.map_or(1.0, |gate| factor(gate, i));
            let width = from.tensor.width();
            let values = piece.cut(&host.download(&from.tensor)?, width, |i, j| {
                along(&piece.rows, i) * along(&piece.columns, j)
            });
            let to = small.get_mut(&piece.name);
            let to = to.ok_or_else(|| missing(&piece.name))?;
            to.tensor = backend.upload(&piece.shape, &values)?;
        }
        for (name, from, channels) in &self.norms {
            let norm = big.norm(from);
            let norm = norm.ok_or_else(|| Error::MissingParameter(from.clone()))?;
            let leading = |tensor| -> Result<_> {
                let values = host.download(tensor)?;
                Ok(backend.upload(&[*channels], &values[..*channels])?)
            };
            let running = Moments {
                mean: leading(&norm.running.mean)?,
                variance: leading(&norm.running.variance)?,
            };
            let batches = norm.batches;
            small.set_norm(name, BatchNorm { running, batches });
        }
        Ok(())
    }
}
