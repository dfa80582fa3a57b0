//! A gated model: the really smaller one, made of the bigger one's weights on the tape.

use super::tower::Opened;
use crate::autodiff::{Tape, Var};
use crate::backend::Backend;
use crate::model::inherit::{Axis, Ends, Gate, Piece, Tower, pieces};
use crate::model::{Bound, Clip, ClipConfig, Layers, Result};
use crate::ops::{self, Cut};
use crate::tensor::Tensor;

/// A piece whose indices are on the device.
struct Taken {
    tower: Tower,
    piece: Piece,
    rows: Tensor,
    columns: Tensor,
}

/// The part of a model that gates leave. Blocks may differ in their numbers of heads and hidden channels.
pub(crate) struct Gated {
    clip: Clip,
    taken: Vec<Taken>,
}

/// The name of a gate's factors among the parameters of a step.
pub(super) fn leaf(tower: Tower, gate: Gate) -> String {
    let tower = tower.word();
    match gate {
        Gate::Width => format!("gates.{tower}.width"),
        Gate::Branch(i) => format!("gates.{tower}.{i}.branch"),
        Gate::Heads(i) => format!("gates.{tower}.{i}.heads"),
        Gate::Mlp(i) => format!("gates.{tower}.{i}.mlp"),
    }
}

/// The pieces of `config` that the towers' gates leave.
pub(super) fn left(config: &ClipConfig, opened: &Opened) -> Vec<Piece> {
    pieces(
        config,
        opened.tower,
        &opened.kept,
        &Ends::of(config, config),
    )
}

impl Gated {
    /// The part of `clip` that `opened` leaves.
    pub(super) fn new(clip: &Clip, opened: &[Opened], backend: &dyn Backend) -> Result<Self> {
        let (mut config, mut taken) = (clip.config().clone(), Vec::new());
        for opened in opened {
            let layers = opened.kept.blocks.len();
            match opened.tower {
                Tower::Image => config.vision_cfg.layers = Layers::Blocks(layers),
                Tower::Text => config.text_cfg.layers = layers,
            }
            for piece in left(clip.config(), opened) {
                let upload = |axis: &Axis| {
                    let indices: Vec<i32> = axis.indices.iter().map(|&i| i as i32).collect();
                    backend.upload_i32(&[indices.len()], &indices)
                };
                taken.push(Taken {
                    tower: opened.tower,
                    rows: upload(&piece.rows)?,
                    columns: upload(&piece.columns)?,
                    piece,
                });
            }
        }
        Ok(Self {
            clip: clip.with_config(config),
            taken,
        })
    }

    /// The smaller model.
    pub(crate) fn clip(&self) -> &Clip {
        &self.clip
    }

    /// Its parameters, from those of the whole model and the gates' factors among them.
    pub(crate) fn bind(&self, tape: &Tape, whole: &Bound) -> Result<Bound> {
        let mut smaller = Vec::with_capacity(self.taken.len());
        for taken in &self.taken {
            let piece = &taken.piece;
            let gate = |axis: &Axis| -> Result<Option<&Var>> {
                let leaf = axis.gate.map(|gate| leaf(taken.tower, gate));
                leaf.map(|name| whole.var(&name)).transpose()
            };
            let cut = Cut {
                rows: &taken.rows,
                columns: &taken.columns,
                row_gate: gate(&piece.rows)?,
                column_gate: gate(&piece.columns)?,
            };
            let value = ops::submatrix(tape, whole.var(&piece.from)?, cut)?;
            smaller.push((piece.name.clone(), value));
        }
        Ok(whole.with(smaller))
    }
}
