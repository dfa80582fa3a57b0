//! What both programs say about wrong input, and what they make of damaged data.

use super::place::{CONFIG, Entry, Place, picture, sentence, tar};

fn pair(key: &str, number: u64) -> Vec<Entry> {
    let text = sentence(number).into_bytes();
    vec![
        (format!("{key}.png"), picture(number)),
        (format!("{key}.txt"), text),
    ]
}

#[test]
fn wrong_checkpoints() {
    let place = Place::new();
    let bad = |args: &str, words: &[&str]| {
        place.refuses("eval", &format!("{args} --val-data demo"), words);
        place.write("t.txt", "a dog");
        let embed = format!("{args} --texts t.txt --out f.safetensors");
        place.refuses("embed", &embed, words);
        assert!(!place.path("f.safetensors").exists());
    };
    bad("none", &["no checkpoint", "none"]);
    bad("model --model ViT-Z-9", &["ViT-Z-9", "ViT-T-16"]);
    bad("demo --model ViT-T-16", &["--model"]);
    bad("", &["CHECKPOINT"]);
    let half = "model --backend cpu --precision amp_fp16";
    bad(half, &["--precision amp_fp16"]);
    bad("model --batch-size 0", &["--batch-size"]);
    bad("model --workers 0", &["--workers"]);
    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    place.write("bare.safetensors", &weights);
    bad("bare.safetensors", &["bare.safetensors", "--model"]);
    place.write(
        "other.json",
        CONFIG.replace("\"embed_dim\": 24", "\"embed_dim\": 40"),
    );
    bad(
        "model --model other.json",
        &["does not fit", "visual.proj", "[32, 24]", "[32, 40]"],
    );
    place.write("torn/model.safetensors", &weights[..999]);
    place.write("torn/open_clip_config.json", CONFIG);
    bad("torn", &["torn/model.safetensors"]);
    place.write("odd/model.safetensors", &weights);
    place.write("odd/open_clip_config.json", "{\"model_cfg\": 3}");
    bad("odd", &["odd/open_clip_config.json"]);
    place.write("weights.pt", "x");
    bad("weights.pt", &["weights.pt", ".safetensors"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    bad("empty", &["empty", "model.safetensors"]);
}

#[test]
fn wrong_data() {
    let place = Place::new();
    place.write_tar("good.tar", &pair("a", 1));
    let bad = |args: &str, words: &[&str]| place.refuses("eval", &format!("model {args}"), words);
    bad("", &["nothing to evaluate on", "--imagenet-val"]);
    bad("--val-data none/{00..03}.tar", &["none/00.tar"]);
    bad("--val-data none.csv", &["none.csv"]);
    bad("--val-data good.tar --out none/x.json", &["none"]);
    bad("--val-data good.tar --out model", &["model"]);
    bad("--val-dada good.tar", &["--val-dada"]);
    bad("--coco none", &["none"]);
    bad("--coco model", &["dataset_coco.json"]);
    bad("--coco model --coco-captions good.tar", &["good.tar"]);
    bad("--flickr-captions good.tar", &["--flickr"]);
    bad(
        "--classnames n.txt --val-data good.tar",
        &["--zeroshot-data"],
    );
    bad("--zeroshot-data good.tar", &["--classnames"]);
    let classes = "--zeroshot-data classes.tar --classnames names.txt";
    let class = |class: &str| {
        let entries = [("a.png".into(), picture(1)), ("a.cls".into(), class.into())];
        place.write_tar("classes.tar", &entries);
    };
    class("2");
    bad(classes, &["names.txt"]);
    place.write("names.txt", "cat\n\ndog\nbird\n");
    bad(classes, &["names.txt", "line 2"]);
    // A file with too few names: the index of the sample is beyond them.
    place.write("names.txt", "cat\ndog\n");
    bad(classes, &["sample a", "`2`", "2 classes"]);
    class("horse");
    bad(classes, &["sample a", "`horse`"]);
    class("cat");
    place.write("t.txt", "a {c}\na photo\n");
    bad(
        &format!("{classes} --templates t.txt"),
        &["t.txt", "line 2", "{c}"],
    );
    bad(&format!("{classes} --templates none.txt"), &["none.txt"]);
    place.metrics(&format!("model {classes}"));
    bad(
        "--zeroshot-data good.tar --classnames names.txt",
        &["sample a", "no class"],
    );
    let embed =
        |args: &str, words: &[&str]| place.refuses("embed", &format!("model {args}"), words);
    embed("--out f.safetensors", &["--images", "--texts"]);
    embed("--texts names.txt", &["--out"]);
    embed("--texts names.txt --out f.npy", &["f.npy", ".safetensors"]);
    embed("--texts names.txt --out none/f.safetensors", &["none"]);
    embed("--texts none.txt --out f.safetensors", &["none.txt"]);
    place.write("blank.txt", "one\n \nthree\n");
    embed(
        "--texts blank.txt --out f.safetensors",
        &["blank.txt", "line 2"],
    );
    embed("--images none/*.tar --out f.safetensors", &["none"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    embed("--images empty --out f.safetensors", &["empty"]);
    place.write("x.png", picture(1));
    embed("--images x.png --out f.safetensors", &["x.png", "folder"]);
    place.write_tar("texts.tar", &pair("a", 1)[1..]);
    bad(
        "--val-data texts.tar",
        &["no usable image", "1 missing image"],
    );
}

#[test]
fn damaged_data_are_counted() {
    let place = Place::new();
    let mut entries: Vec<Entry> = (0..12).flat_map(|i| pair(&format!("p{i:02}"), i)).collect();
    entries[7].1 = b" \n".to_vec(); // p03's caption
    entries[8].1.truncate(50); // p04's image
    let whole = tar(&entries);
    place.write("cut.tar", &whole[..whole.len() - 2000]);
    let table = place.run("eval", "model --val-data cut.tar --max-bad-fraction 1");
    for word in [
        "1 empty caption",
        "p03",
        "1 undecodable image",
        "1 truncated or damaged shard",
    ] {
        assert!(table.contains(word), "no {word} in:\n{table}");
    }
    let results = place.json("model/results.json");
    let skipped = &results["datasets"][0]["skipped"];
    assert_eq!(skipped["truncated or damaged shard"], 1);
    assert_eq!(skipped["empty caption"], 1);
    assert_eq!(skipped["undecodable image"], 1);
    assert_eq!(results["datasets"][0]["images"], 9);
    // A missing image of a list, too.
    place.write("coco/a.png", picture(1));
    let list = r#"{"images": [
        {"filename": "a.png", "split": "test", "sentences": [{"raw": "one"}]},
        {"filename": "b.png", "split": "test", "sentences": [{"raw": "two"}]}]}"#;
    place.write("coco/dataset_coco.json", list);
    let table = place.run("eval", "model --coco coco --max-bad-fraction 0.5");
    assert!(table.contains("1 missing file"), "{table}");
    std::fs::remove_file(place.path("coco/a.png")).unwrap();
    place.refuses(
        "eval",
        "model --coco coco",
        &["coco", "no usable image", "2 missing file"],
    );
    place.write("torn.tar", &whole[..300]);
    place.refuses(
        "eval",
        "model --val-data torn.tar",
        &["no usable image", "torn.tar"],
    );
    place.refuses(
        "embed",
        "model --images torn.tar --out f.safetensors",
        &["no usable image", "torn.tar"],
    );
}
