//! Manual weight inheritance against TinyCLIP's rule, element by element (`tests/fixtures/inherit.py`).

use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::io::{self, Data, Entry};
use clip_distill::model::inherit::{Tower, manual};
use clip_distill::model::{Clip, ClipConfig};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/torch")
        .join(name)
}

fn config(name: &str) -> ClipConfig {
    let text = std::fs::read_to_string(fixture(name)).expect("a configuration");
    ClipConfig::from_json(&text).expect("a model")
}

/// A file of `clip` in which element e of tensor k, by name, is the number of elements before it plus e.
fn self_naming(clip: &Clip, path: &Path, backend: &dyn Backend) {
    let blank = clip.init(backend, 0).expect("parameters");
    io::save_clip(path, clip, &blank, backend, false).expect("written");
    let mut start = 0;
    let entries = io::read(path).expect("read").entries.into_iter().map(|e| {
        let n = e.shape.iter().product::<usize>();
        let data = match e.data {
            Data::I64(_) => Data::I64(vec![start as i64]),
            _ => Data::F32((start..start + n).map(|x| x as f32).collect()),
        };
        start += n;
        Entry { data, ..e }
    });
    let entries: Vec<_> = entries.map(Into::into).collect();
    io::write(path, entries, &HashMap::new()).expect("written");
}

fn numbers(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let entries = io::read(path).expect("read").entries.into_iter();
    let wide = |e: Entry| {
        let values = match e.data {
            Data::F32(v) => v.into_iter().map(f64::from).collect(),
            Data::I64(v) => v.into_iter().map(|x| x as f64).collect(),
            other => panic!("{}: {other:?}", e.name),
        };
        (e.name, (e.shape, values))
    };
    entries.map(wide).collect()
}

/// The small model's file after inheriting `towers`.
fn inherited(case: &str, towers: &[Tower]) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let backend = Cpu::new();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.safetensors");
    let big = Clip::new(config(&format!("inherit_{case}_big.json")));
    let small = Clip::new(config(&format!("inherit_{case}_small.json")));
    self_naming(&big, &path, &backend);
    let weights = io::load_clip(&path, &big, &backend).expect("loaded");
    let mut parameters = small.init(&backend, 0).expect("parameters");
    manual(big.config(), small.config(), towers)
        .expect("can inherit")
        .apply((&backend, &weights), (&backend, &mut parameters), |_, _| {
            1.0
        })
        .expect("applied");
    io::save_clip(&path, &small, &parameters, &backend, false).expect("written");
    numbers(&path)
}

#[test]
fn layers_heads_and_channels_come_from_where_tinyclip_takes_them() {
    for case in ["vit", "resnet"] {
        let want = numbers(&fixture(&format!("inherit_{case}.safetensors")));
        let got = inherited(case, &Tower::ALL);
        let names: Vec<_> = want.keys().collect();
        assert_eq!(got.keys().collect::<Vec<_>>(), names);
        for (name, want) in &want {
            let got = &got[name];
            assert_eq!(got.0, want.0, "{case} {name}");
            assert!(got.1 == want.1, "{case} {name}");
        }
    }
}

/// One tower alone leaves the other, and the scale, as they were drawn.
#[test]
fn one_tower_alone() {
    let want = numbers(&fixture("inherit_vit.safetensors"));
    let got = inherited("vit", &[Tower::Text]);
    for (name, got) in &got {
        let taken = Tower::Text.owns(name);
        assert_eq!(got.1 == want[name].1, taken, "{name}");
    }
}

/// A shorter vocabulary keeps its leading merges, and the bigger one's start and end tokens.
#[test]
fn the_last_two_tokens_stay_the_last() {
    let big = config("inherit_vit_big.json");
    let mut small = big.clone();
    small.text_cfg.vocab_size = 7;
    let all = manual(&big, &small, &[Tower::Text]).expect("can inherit");
    let table = all
        .pieces
        .iter()
        .find(|p| p.name == "token_embedding.weight");
    let rows = &table.expect("a token table").rows.indices;
    assert_eq!(rows, &[0, 1, 2, 3, 4, 58, 59]);
}

#[test]
fn what_cannot_be_inherited_is_refused_in_one_line() {
    let vit = || config("inherit_vit_big.json");
    let resnet = config("inherit_resnet_big.json");
    type Change = fn(&mut ClipConfig);
    let cases: [(Change, &str); 7] = [
        (
            |c| c.vision_cfg.width = 32,
            "image: width is 32 in the smaller model, more than the bigger one's 24",
        ),
        (|c| c.text_cfg.layers = 4, "text: layers is 4"),
        (
            |c| c.vision_cfg.head_width = 12,
            "image: head_width is 8 in the bigger model and 12",
        ),
        (
            |c| c.text_cfg.heads = 2,
            "text: width of a head is 6 in the bigger model and 12",
        ),
        (
            |c| c.vision_cfg.patch_size = Some(4),
            "image: patch_size is 8",
        ),
        (|c| c.embed_dim = 32, "embed_dim is 32"),
        (|c| c.quick_gelu = true, "QuickGELU"),
    ];
    for (change, words) in cases {
        let mut small = vit();
        change(&mut small);
        let error = manual(&vit(), &small, &Tower::ALL)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    let error = manual(&vit(), &resnet, &[Tower::Image]).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("the bigger model has a ViT, the smaller one a ResNet")
    );
}
