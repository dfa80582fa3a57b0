//! Pieces of a ModifiedResNet, for manual inheritance: leading channels, and in each stage blocks at equal
//! intervals.

use super::super::{ClipConfig, ConvLayer, convolutions, init};
use super::{Axis, Inheritance, Piece, Tower};
use std::collections::HashMap;

/// A name in the smaller model → in the bigger one: block i of a stage is block i·⌊N/n⌋ there.
fn bigger(name: &str, stages: (&[usize], &[usize])) -> String {
    let parts: Vec<&str> = name.splitn(4, '.').collect();
    let [tower, layer, block, rest] = parts[..] else {
        return name.into();
    };
    let number = |s: &str| s.parse::<usize>().ok();
    let stage = layer.strip_prefix("layer").and_then(number);
    let (Some(stage), Some(block)) = (stage.and_then(|s| s.checked_sub(1)), number(block)) else {
        return name.into();
    };
    match (stages.0.get(stage), stages.1.get(stage)) {
        (Some(big), Some(small)) => {
            format!("{tower}.{layer}.{}.{rest}", block * (big / small))
        }
        _ => name.into(),
    }
}

/// The image tower's pieces and running statistics.
pub(super) fn leading(big: &ClipConfig, small: &ClipConfig, out: &mut Inheritance) {
    let (v, w) = (&big.vision_cfg, &small.vision_cfg);
    let stages = (v.layers.stages(), w.layers.stages());
    let by_name = |convs: Vec<ConvLayer>| -> HashMap<String, ConvLayer> {
        let named = convs.into_iter().map(|c| (format!("{}.weight", c.name), c));
        named.collect()
    };
    let (theirs, ours) = (by_name(convolutions(v)), by_name(convolutions(w)));
    for (name, shape, _) in init::plan(small) {
        if !Tower::Image.owns(&name) {
            continue;
        }
        let from = bigger(&name, stages);
        let rows = Axis::of(0..shape[0]);
        out.pieces.push(match (shape.get(1), ours.get(&name)) {
            (None, _) => Piece::vector(name, from, rows),
            (Some(_), Some(conv)) => {
                // A filter is in (y, x, channel) order: the leading channels of each of its pixels.
                let all = theirs.get(&from).map_or(0, |c| c.channels.0);
                let (pixels, some) = (conv.kernel * conv.kernel, conv.channels.0);
                let columns = (0..pixels).flat_map(|pixel| (0..some).map(move |c| pixel * all + c));
                Piece::matrix(name, from, rows, Axis::of(columns))
            }
            (Some(&columns), None) => Piece::matrix(name, from, rows, Axis::of(0..columns)),
        });
    }
    for conv in convolutions(w) {
        let from = bigger(&conv.norm, stages);
        out.norms.push((conv.norm, from, conv.channels.1));
    }
}
