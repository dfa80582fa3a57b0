//! Both towers against open_clip: features and every gradient, from the fixtures in
//! `tests/fixtures/torch`.

use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::{Backend, Op, Storage, cpu::Cpu};
use clip_distill::io::{self, Data, File};
use clip_distill::loss::{self, Features};
use clip_distill::model::{Bound, Clip, ClipConfig, Parameters};
use clip_distill::ops;
use clip_distill::optim;
use common::*;
use std::path::Path;
use std::sync::Arc;

#[path = "common/check.rs"]
mod check;
mod common;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

struct Case {
    file: File,
    clip: Clip,
    parameters: Parameters,
    backend: Arc<dyn Backend>,
}

/// A fixture's model on the CPU.
fn case(name: &str) -> Case {
    case_on(name, Arc::new(Cpu::new()))
}

fn case_on(name: &str, backend: Arc<dyn Backend>) -> Case {
    let file = io::read(&fixture(&format!("{name}.safetensors"))).expect("fixture");
    let json = std::fs::read_to_string(fixture(&format!("{name}.json"))).expect("config");
    let clip = Clip::new(ClipConfig::from_json(&json).expect("valid config"));
    let entries = part(&file, "param.");
    let parameters =
        io::clip_from_entries(Path::new(name), entries, &clip, backend.as_ref()).expect("fits");
    Case {
        file,
        clip,
        parameters,
        backend,
    }
}

fn image_features(clip: &Clip, tape: &Tape, bound: &Bound, file: &File) -> Var {
    let (shape, pixels) = channels_last(file.get("input.image").expect("images"));
    let images = tape.backend().upload(&shape, &pixels).expect("upload");
    clip.encode_image(tape, bound, &images).expect("images")
}

/// One step of the fixture's loss in training mode on every backend at hand: features, loss, and every
/// gradient.
fn towers_agree(name: &str, recompute: bool) {
    for backend in check::backends(Op::ALL) {
        towers_agree_on(name, recompute, backend);
    }
}

fn towers_agree_on(name: &str, recompute: bool, backend: Arc<dyn Backend>) {
    let Case {
        file,
        clip,
        mut parameters,
        backend,
    } = case_on(name, backend);
    let clip = clip.with_grad_checkpointing(recompute);
    let tape = Tape::new(backend.clone());
    let bound = parameters.bind_training(&tape);
    let texts = texts(file.get("input.text").expect("texts"));
    let image = image_features(&clip, &tape, &bound, &file);
    let text = clip.encode_text(&tape, &bound, &texts).expect("text tower");
    for (what, var) in [("image", &image), ("text", &text)] {
        let got = backend.download(var.value()).expect("download");
        let want = values(&file, &format!("output.{what}_features"));
        assert_close(what, &got, want, tolerance::OUTPUT * max_abs(want).max(1.0));
        let unit = ops::l2_normalize(&tape, var).expect("unit");
        let got = backend.download(unit.value()).expect("download");
        let want = values(&file, &format!("output.{what}_features_normalized"));
        assert_close(what, &got, want, tolerance::OUTPUT);
    }
    let features = Features {
        image: ops::l2_normalize(&tape, &image).expect("unit"),
        text: ops::l2_normalize(&tape, &text).expect("unit"),
    };
    let scale = ops::exp(&tape, bound.var("logit_scale").expect("scale")).expect("exp");
    let loss = loss::clip(&tape, &features, &scale).expect("loss");
    let got = backend.download(loss.value()).expect("download");
    assert_close(
        "loss",
        &got,
        values(&file, "output.loss"),
        tolerance::OUTPUT,
    );

    let mut grads = tape.backward(&loss).expect("backward");
    let collected = optim::collect(&parameters, &bound, &mut grads);
    let sides = clip.filter_sides();
    for ((p, grad), (_, shape)) in parameters
        .iter()
        .zip(collected)
        .zip(clip.parameter_shapes())
    {
        let grad = grad.unwrap_or_else(|| panic!("no gradient for {}", p.name));
        let mut got = backend.download(&grad).expect("download");
        if let Some(side) = sides.get(&p.name) {
            // Ours is (y, x, channel); the fixture's (channel, y, x).
            let (filter, pixels) = (shape[1], side * side);
            let channels = filter / pixels;
            got = (0..got.len())
                .map(|i| {
                    let (o, k) = (i / filter, i % filter);
                    got[o * filter + (k % pixels) * channels + k / pixels]
                })
                .collect();
        }
        let want = values(&file, &format!("grad.{}", p.name));
        let tolerance =
            (tolerance::PARAMETER_GRADIENT * max_abs(want)).max(tolerance::ZERO_GRADIENT);
        assert_close(&format!("{name} grad {}", p.name), &got, want, tolerance);
    }
    running_statistics_agree(&file, &clip, &mut parameters, &bound, &backend);
}

/// What a step leaves in the running statistics.
fn running_statistics_agree(
    file: &File,
    clip: &Clip,
    parameters: &mut Parameters,
    bound: &Bound,
    backend: &Arc<dyn Backend>,
) {
    let seen = bound.observations();
    assert_eq!(seen.len(), clip.norms().len());
    parameters
        .update_running(backend.as_ref(), &seen)
        .expect("update");
    for (name, _) in clip.norms() {
        let norm = parameters.norm(&name).expect("norm");
        for (part, tensor) in [
            ("running_mean", &norm.running.mean),
            ("running_var", &norm.running.variance),
        ] {
            let got = backend.download(tensor).expect("download");
            let name = format!("running.{name}.{part}");
            assert_close(&name, &got, values(file, &name), tolerance::OUTPUT);
        }
        let counter = file.get(&format!("running.{name}.num_batches_tracked"));
        let counter = &counter.expect("counter").data;
        assert_eq!(*counter, Data::I64(vec![norm.batches]), "{name}");
    }
}

/// Images that show some of their patches, of each another number, against open_clip's modules called one image
/// at a time; checkpointed or not.
#[test]
fn masked_images_agree_with_open_clip() {
    let masked = io::read(&fixture("vit_gelu_masked.safetensors")).expect("fixture");
    let kept = masked.get("input.kept").expect("kept patches");
    let Data::I32(ids) = &kept.data else {
        panic!("kept patches are i32")
    };
    let rows = ids.chunks_exact(kept.shape[1]);
    let kept: Vec<Vec<usize>> = rows
        .map(|row| {
            row.iter()
                .filter(|&&p| p >= 0)
                .map(|&p| p as usize)
                .collect()
        })
        .collect();
    for backend in check::backends(Op::ALL) {
        for recompute in [false, true] {
            let Case {
                file,
                clip,
                parameters,
                backend,
            } = case_on("vit_gelu", backend.clone());
            let clip = clip.with_grad_checkpointing(recompute);
            let tape = Tape::new(backend.clone());
            let bound = parameters.bind_training(&tape);
            let (shape, pixels) = channels_last(file.get("input.image").expect("images"));
            let images = backend.upload(&shape, &pixels).expect("upload");
            let features = clip
                .encode_image_masked(&tape, &bound, &images, &kept)
                .expect("image tower");
            let want = values(&masked, "output.image_features");
            let got = backend.download(features.value()).expect("download");
            let allowed = tolerance::OUTPUT * max_abs(want).max(1.0);
            assert_close("masked features", &got, want, allowed);

            let upstream = values(&masked, "input.upstream");
            let upstream = backend.upload(features.shape(), upstream).expect("upload");
            let grads = tape
                .backward_from(&[(&features, upstream)])
                .expect("backward");
            let gradients = masked
                .entries
                .iter()
                .filter(|e| e.name.starts_with("grad."));
            let mut compared = 0;
            for entry in gradients {
                let name = entry.name.trim_start_matches("grad.");
                let var = bound.var(name).expect("parameter");
                let got = backend
                    .download(grads.get(var).expect("gradient"))
                    .expect("download");
                let want = match name {
                    "visual.conv1.weight" => channels_last(entry).1,
                    _ => values(&masked, &entry.name).to_vec(),
                };
                let allowed = tolerance::PARAMETER_GRADIENT * max_abs(&want);
                let allowed = allowed.max(tolerance::ZERO_GRADIENT);
                assert_close(name, &got, &want, allowed);
                compared += 1;
            }
            let shapes = clip.parameter_shapes();
            let tower = shapes
                .iter()
                .filter(|(name, _)| name.starts_with("visual."));
            assert_eq!(compared, tower.count(), "every parameter of the tower");
        }
    }
    let error = |kept: &[Vec<usize>], name: &str| {
        let Case {
            file,
            clip,
            parameters,
            backend,
        } = case(name);
        let tape = Tape::frozen(backend.clone());
        let bound = parameters.bind(&tape);
        let (shape, pixels) = channels_last(file.get("input.image").expect("images"));
        let images = backend.upload(&shape, &pixels).expect("upload");
        let refused = clip.encode_image_masked(&tape, &bound, &images, kept);
        refused.expect_err("an error").to_string()
    };
    assert!(error(&kept[1..], "vit_gelu").contains("4 images"));
    let outside = vec![vec![16]; kept.len()];
    assert!(error(&outside, "vit_gelu").contains("no patch 16"));
    assert!(error(&kept, "resnet").contains("ResNet"));
}

#[test]
fn gelu_towers_agree_with_open_clip() {
    towers_agree("vit_gelu", false);
}

#[test]
fn quick_gelu_towers_agree_with_open_clip() {
    towers_agree("vit_quickgelu", false);
}

#[test]
fn resnets_agree_with_open_clip() {
    towers_agree("resnet", false);
    towers_agree("resnet_deep", false);
}

/// Bottlenecks that are computed again during backward give the same gradients, and count once in the
/// running statistics.
#[test]
fn recomputed_resnets_agree_with_open_clip() {
    towers_agree("resnet_deep", true);
}

/// Evaluation normalises by the running statistics, changes none, and is open_clip's.
#[test]
fn resnets_evaluate_by_their_running_statistics() {
    for name in ["resnet", "resnet_deep"] {
        let Case {
            file,
            clip,
            parameters,
            backend,
        } = case(name);
        for tape in [Tape::frozen(backend.clone()), Tape::new(backend.clone())] {
            let bound = parameters.bind(&tape);
            let y = image_features(&clip, &tape, &bound, &file);
            let got = backend.download(y.value()).expect("download");
            let want = values(&file, "output.image_features_eval");
            assert_close(name, &got, want, tolerance::OUTPUT * max_abs(want).max(1.0));
            assert!(bound.observations().is_empty());
        }
    }
}

/// What is written is what was read: names, shapes, every bit, and the counters.
#[test]
fn resnets_are_written_as_they_were_read() {
    let Case {
        file,
        clip,
        parameters,
        backend,
    } = case("resnet");
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("model.safetensors");
    io::save_clip(&path, &clip, &parameters, backend.as_ref(), false).expect("written");
    let written = io::read(&path).expect("read");
    let mut want = part(&file, "param.").entries;
    want.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(written.entries, want);
    // Without one of its running statistics it is no whole model.
    let lost = "visual.layer2.0.bn2.running_var";
    want.retain(|e| e.name != lost);
    let file = File {
        entries: want,
        ..File::default()
    };
    let error = io::clip_from_entries(&path, file, &clip, backend.as_ref()).expect_err("refused");
    assert!(
        error.to_string().contains(&format!("missing {lost} [8]")),
        "{error}"
    );
}

/// Mixed precision turns unit features by little: a cosine of 0.999 is the bound that users of bf16
/// checkpoints know.
#[test]
fn towers_in_bf16_point_the_same_way() {
    let Some(backend) = check::cpu_bf16("towers in bf16") else {
        return;
    };
    let Case {
        file,
        clip,
        parameters,
        ..
    } = case("vit_gelu");
    let tape = Tape::frozen(backend.clone());
    let bound = parameters.bind(&tape);
    let texts = texts(file.get("input.text").expect("texts"));
    let image = image_features(&clip, &tape, &bound, &file);
    let text = clip.encode_text(&tape, &bound, &texts).expect("texts");
    for (what, var) in [("image", image), ("text", text)] {
        let unit = ops::l2_normalize(&tape, &var).expect("unit");
        let got = backend.download(unit.value()).expect("download");
        let want = values(&file, &format!("output.{what}_features_normalized"));
        let width = var.value().width();
        for (got, want) in got.chunks(width).zip(want.chunks(width)) {
            let cosine: f32 = got.iter().zip(want).map(|(a, b)| a * b).sum();
            assert!(cosine >= 0.999, "{what}: cosine {cosine}");
        }
        assert_ne!(got, want, "bf16 leaves a trace");
    }
}

/// A text tower run on padded rows, position for position, as open_clip runs it, gives the same
/// features as the packed run: causality hides what follows the end token.
#[test]
fn packed_texts_equal_padded_texts() {
    let Case {
        file,
        clip,
        parameters,
        backend,
    } = case("vit_gelu");
    let tape = Tape::frozen(backend.clone());
    let bound = parameters.bind(&tape);
    let packed = texts(file.get("input.text").expect("texts"));
    let context = clip.config().text_cfg.context_length;
    let features = |texts: &[Vec<i32>]| {
        let var = clip.encode_text(&tape, &bound, texts).expect("text tower");
        backend.download(var.value()).expect("download")
    };
    let together = features(&packed);
    let width = together.len() / packed.len();
    for (i, text) in packed.iter().enumerate() {
        // Padding goes after the text; its features are then read at the end token by cutting
        // the padded run there, which needs the causal mask to hold at every layer.
        let mut padded = text.clone();
        padded.resize(context, 0);
        let alone = features(std::slice::from_ref(text));
        assert_eq!(alone, together[i * width..(i + 1) * width], "alone");
        let full = encode_at(&clip, &parameters, &backend, &padded, text.len() - 1);
        assert_eq!(full, alone, "padded");
    }
}

/// Features of the token at `position` of one padded text.
fn encode_at(
    clip: &Clip,
    parameters: &Parameters,
    backend: &Arc<dyn Backend>,
    padded: &[i32],
    position: usize,
) -> Vec<f32> {
    let tape = Tape::frozen(backend.clone());
    let bound = parameters.bind(&tape);
    let y = clip
        .encode_text_at(&tape, &bound, &[padded.to_vec()], &[position])
        .expect("text tower");
    backend.download(y.value()).expect("download")
}

/// RN50 is open_clip's: 102 007 137 parameters there, by the same names. It begins with every block an
/// identity (γ = 0 in its last BatchNorm), convolutions in ±1/√fan_in and the pool's products at
/// width^−½.
#[test]
fn rn50_is_open_clips() {
    let clip = Clip::new(ClipConfig::named("RN50").expect("built in"));
    let shapes = clip.parameter_shapes();
    let elements: usize = shapes
        .iter()
        .map(|(_, s)| s.iter().product::<usize>())
        .sum();
    assert_eq!((elements, shapes.len()), (102_007_137, 324));
    assert_eq!(clip.norms().len(), 55);
    let config = clip.config();
    assert_eq!((config.embed_dim, config.vision_cfg.heads()), (1024, 32));
    let json = serde_json::to_string(config).expect("JSON");
    assert_eq!(ClipConfig::from_json(&json).expect("read back"), *config);
    assert!(
        ClipConfig::named("RN50-quickgelu")
            .expect("built in")
            .quick_gelu
    );

    let backend = Cpu::new();
    let clip = case("resnet").clip;
    let parameters = clip.init(&backend, 1).expect("parameters");
    let values = |name: &str| {
        let p = parameters.get(name).expect(name);
        backend.download(&p.tensor).expect("values")
    };
    assert!(
        values("visual.layer3.0.bn3.weight")
            .iter()
            .all(|&x| x == 0.0)
    );
    for one in [
        "visual.bn3",
        "visual.layer3.0.bn2",
        "visual.layer3.0.downsample.1",
    ] {
        assert!(values(&format!("{one}.weight")).iter().all(|&x| x == 1.0));
    }
    let bound = (32.0f32 * 9.0).sqrt().recip();
    let largest = max_abs(&values("visual.layer4.0.conv2.weight"));
    assert!(largest <= bound && largest > 0.99 * bound, "{largest}");
    let products = values("visual.attnpool.k_proj.weight");
    let squares: f32 = products.iter().map(|x| x * x).sum();
    let std = (squares / products.len() as f32 * 128.0).sqrt();
    assert!((std - 1.0).abs() < 0.02, "{std}");
}
