//! `embed`'s rows against the library's towers.

use super::naive::dot;
use super::place::{Entry, Place, Towers, picture, sentence};
use serde_json::json;

fn close(a: &[f32], b: &[f32]) {
    let worst = a
        .iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max);
    assert!(a.len() == b.len() && worst < 2e-5, "rows differ by {worst}");
}

#[test]
fn rows_are_the_towers_features() {
    let place = Place::new();
    let towers = Towers::new(&place.path("model/model.safetensors"));
    let names = ["a.png", "b/0.png", "b/10.png", "b/9.png", "c.png"];
    for (i, name) in names.iter().enumerate() {
        place.write(&format!("pictures/{name}"), picture(i as u64));
    }
    place.write("pictures/b/torn.png", &picture(7)[..60]);
    place.write("pictures/notes.md", "no image");
    let texts: Vec<String> = (0..9).map(sentence).collect();
    // Longer than the context, so cut.
    let texts = [texts, vec![sentence(3).repeat(20)]].concat();
    place.write("texts.txt", texts.join("\n") + "\n");
    let args = "model --images pictures --texts texts.txt --batch-size 2";
    let printed = place.run("embed", &format!("{args} --out both.safetensors"));
    for word in [
        "5 images",
        "10 texts",
        "1 undecodable image",
        "[5, 24]",
        "both.json",
    ] {
        assert!(printed.contains(word), "no {word} in {printed}");
    }
    let sidecar = place.json("both.json");
    assert_eq!(sidecar["images"], json!(names));
    assert_eq!(sidecar["texts"], json!(texts));
    assert_eq!(sidecar["skipped"]["undecodable image"], 1);
    let images = place.rows(args, "image_features");
    for (i, row) in images.iter().enumerate() {
        close(row, &towers.image(&picture(i as u64)));
        assert!((dot(row, row) - 1.0).abs() < 1e-6);
    }
    assert!(
        dot(&images[0], &images[1]) < 0.999,
        "all images look the same"
    );
    for (row, text) in place.rows(args, "text_features").iter().zip(&texts) {
        close(row, &towers.text(text));
    }
    // The same pictures from shards, in the shards' order, need no text.
    let entries: Vec<Entry> = [2, 0, 4]
        .map(|i| (format!("x{i}.png"), picture(i)))
        .to_vec();
    place.write_tar("0.tar", &entries);
    let rows = place.rows("model --images 0.tar", "image_features");
    for (row, i) in rows.iter().zip([2, 0, 4]) {
        close(row, &images[i]);
    }
    assert_eq!(place.json("out.json")["images"], json!(["x2", "x0", "x4"]));
    assert!(place.json("out.json").get("texts").is_none());
}

#[test]
fn every_kind_of_checkpoint() {
    let place = Place::new();
    place.write("texts.txt", "a dog\nthe bridge\n");
    let rows = |args: &str| place.rows(&format!("{args} --texts texts.txt"), "text_features");
    let own = rows("model");
    assert_eq!(rows("model/model.safetensors"), own);
    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    place.write("bare.safetensors", &weights);
    place.write("config.json", super::place::CONFIG);
    assert_eq!(rows("bare.safetensors --model config.json"), own);
    // A run's newest checkpoint is not the one that sorts last.
    place.write_model(
        "run/checkpoints/step_9",
        &super::place::CONFIG.replace("24,\n", "8,\n"),
    );
    for file in ["model.safetensors", "open_clip_config.json"] {
        let bytes = std::fs::read(place.path(&format!("model/{file}"))).unwrap();
        place.write(&format!("run/checkpoints/step_10/{file}"), bytes);
    }
    assert_eq!(rows("run"), own);
    assert_eq!(place.json("out.json")["model"], "run/step_10");
    assert_eq!(rows("run/checkpoints/step_9")[0].len(), 8);
    assert_eq!(rows("demo")[0].len(), 64);
    // The normalisation that the checkpoint asks for is the one that is used.
    place.write("pictures/x.png", picture(1));
    let image = |model: &str| place.rows(&format!("{model} --images pictures"), "image_features");
    let config = format!(
        "{{\"model_cfg\": {}, \"preprocess_cfg\": {{\"mean\": [0.5, 0.5, 0.5], \"std\": [0.5, 0.5, 0.5]}}}}",
        super::place::CONFIG
    );
    place.write("half/open_clip_config.json", config);
    place.write("half/open_clip_model.safetensors", &weights);
    assert_ne!(image("half"), image("model"));
    assert_eq!(rows("half"), own);
}
