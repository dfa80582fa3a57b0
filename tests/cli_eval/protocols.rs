//! Retrieval under both protocols and zero-shot classification, from every kind of data.

use super::naive;
use super::place::{Entry, Place, Towers, picture, sentence};
use serde_json::{Value, json};

const IMAGES: u64 = 30;

/// 1 to 4 captions an image.
fn captions(image: u64) -> Vec<String> {
    (0..1 + image % 4)
        .map(|c| sentence(10 * image + c))
        .collect()
}

/// A sample with its captions in the JSON, or every third one a line each in the .txt.
fn sample(i: u64) -> Vec<Entry> {
    let text = if i.is_multiple_of(3) {
        (format!("{i:03}.txt"), captions(i).join("\n").into_bytes())
    } else {
        let json = json!({"captions": captions(i), "caption": "never read"});
        (format!("{i:03}.json"), json.to_string().into_bytes())
    };
    vec![(format!("{i:03}.png"), picture(i)), text]
}

fn features(place: &Place) -> (Vec<Vec<f32>>, Vec<Vec<Vec<f32>>>) {
    let towers = Towers::new(&place.path("model/model.safetensors"));
    let images = (0..IMAGES).map(|i| towers.image(&picture(i))).collect();
    let texts = (0..IMAGES)
        .map(|i| captions(i).iter().map(|c| towers.text(c)).collect())
        .collect();
    (images, texts)
}

#[test]
fn both_protocols_equal_their_definitions() {
    let place = Place::new();
    for shard in 0..2 {
        let entries: Vec<Entry> = (15 * shard..15 * (shard + 1)).flat_map(sample).collect();
        place.write_tar(&format!("val/{shard}.tar"), &entries);
    }
    let metrics = place.metrics("model --val-data val/{0..1}.tar --batch-size 7 --caption-lines");
    let (images, all) = features(&place);
    let first: Vec<_> = all.iter().map(|c| c[..1].to_vec()).collect();
    let (first, all) = (
        naive::retrieval(&images, &first),
        naive::retrieval(&images, &all),
    );
    assert_eq!(metrics.as_object().unwrap().len(), 12);
    for (name, range) in &first {
        naive::within(name, &metrics[name], *range);
    }
    for (name, range) in &all {
        let name = format!("all-captions-{name}");
        naive::within(&name, &metrics[&name], *range);
    }
    // Were the protocols mixed up, or everything found, the above would show nothing.
    let differ = first
        .iter()
        .zip(&all)
        .filter(|(a, b)| a.1.0 > b.1.1 || a.1.1 < b.1.0);
    assert!(differ.count() >= 3, "{first:?} {all:?}");
    let results = place.json("model/results.json");
    assert_eq!(results["model"], "model");
    assert_eq!(results["datasets"][0]["images"], IMAGES);
    let captions: usize = (0..IMAGES).map(|i| captions(i).len()).sum();
    assert_eq!(results["datasets"][0]["captions"], captions);
}

#[test]
fn tables_and_karpathys_files_give_what_shards_give() {
    let place = Place::new();
    let entries: Vec<Entry> = (0..IMAGES).flat_map(sample).collect();
    place.write_tar("val.tar", &entries);
    let of_shards = place.metrics("model --val-data val.tar --caption-lines");
    let mut table = String::from("caption,image\n");
    let mut images = Vec::new();
    for i in 0..IMAGES {
        place.write(&format!("pictures/{i}.png"), picture(i));
        place.write(&format!("coco/val2014/{i}.png"), picture(i));
        images.push(json!({
            "filename": format!("{i}.png"), "filepath": "val2014", "split": "test",
            "sentences": captions(i).iter().map(|c| json!({"raw": c})).collect::<Vec<_>>(),
        }));
        let other = json!({"filename": "none.png", "split": "val", "sentences": [{"raw": "x"}]});
        images.push(other);
    }
    // The rows of one image need not stand together; its first row holds its first caption.
    for nth in 0..4 {
        for i in 0..IMAGES {
            if let Some(caption) = captions(i).get(nth) {
                table += &format!("{caption},{i}.png\n");
            }
        }
    }
    place.write("val.csv", table);
    let karpathy = json!({"images": images}).to_string();
    place.write("coco/dataset_coco.json", &karpathy);
    place.write("flickr.json", &karpathy);
    let csv =
        "--csv-separator , --csv-img-key image --csv-caption-key caption --data-root pictures";
    let of_csv = place.metrics(&format!("model --val-data val.csv {csv}"));
    for (name, value) in of_shards.as_object().unwrap() {
        let (a, b) = (value.as_f64().unwrap(), of_csv[name].as_f64().unwrap());
        // The candidates' order is another here; it decides between equals only.
        assert!((a - b).abs() < 1e-9, "{name}: {a} {b}");
    }
    let both = place.metrics(
        "model --coco coco --flickr coco/val2014 --flickr-captions flickr.json --batch-size 5",
    );
    assert_eq!(both.as_object().unwrap().len(), 24);
    for set in ["coco", "flickr"] {
        for (name, value) in of_shards.as_object().unwrap() {
            let protocol = if name.starts_with("all-captions") {
                ""
            } else {
                "first-caption-"
            };
            assert_eq!(
                both[format!("{set}-{protocol}{name}")],
                *value,
                "{set} {name}"
            );
        }
    }
}

#[test]
fn zero_shot_equals_its_definition() {
    let place = Place::new();
    let towers = Towers::new(&place.path("model/model.safetensors"));
    let names: Vec<String> = (0..12).map(|i| sentence(500 + i)).collect();
    let templates = ["a photo of {c}.", "{c}", "the old {c}, {c}"];
    let classes: Vec<Vec<f32>> = names
        .iter()
        .map(|name| {
            let prompts = templates.map(|t| towers.text(&t.replace("{c}", name)));
            naive::class_embedding(&prompts)
        })
        .collect();
    let images: Vec<Vec<f32>> = (0..IMAGES).map(|i| towers.image(&picture(i))).collect();
    let nearest = |x: &Vec<f32>| {
        let score = |c: &usize| naive::dot(x, &classes[*c]);
        (0..12)
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .unwrap()
    };
    // A random model has no opinion: every other image gets the label that the model would give.
    let labels: Vec<usize> = (0..IMAGES as usize)
        .map(|i| {
            if i.is_multiple_of(2) {
                nearest(&images[i])
            } else {
                i % 12
            }
        })
        .collect();
    let (mut by_index, mut by_name) = (Vec::new(), Vec::new());
    for (i, &label) in labels.iter().enumerate() {
        let image = (format!("{i}.png"), picture(i as u64));
        by_index.extend([
            image.clone(),
            (format!("{i}.cls"), format!("{label}\n").into()),
        ]);
        let json = json!({"class": names[label]}).to_string();
        by_name.extend([image, (format!("{i}.json"), json.into())]);
    }
    place.write_tar("index.tar", &by_index);
    place.write_tar("name.tar", &by_name);
    place.write("names.txt", names.join("\n"));
    place.write("templates.txt", format!("{}\n", templates.join("\n")));
    let files = "--classnames names.txt --templates templates.txt";
    let of_index = place.metrics(&format!("model --zeroshot-data index.tar {files}"));
    for (name, k) in [("zeroshot-val-top1", 1), ("zeroshot-val-top5", 5)] {
        let range = naive::accuracy(&images, &classes, &labels, k);
        assert!(range.0 >= 0.4 && range.1 < 1.0, "{name}: {range:?}");
        naive::within(name, &of_index[name], range);
    }
    let of_name = place.metrics(&format!("model --zeroshot_data name.tar {files}"));
    assert_eq!(of_index, of_name);
    // The default template is another classifier.
    place.write("default.txt", "a photo of a {c}.\n");
    let run = |extra: &str| {
        place.metrics(&format!(
            "model --zeroshot-data index.tar --classnames names.txt {extra}"
        ))
    };
    assert_eq!(run(""), run("--templates default.txt"));
}

#[test]
fn the_demonstrations_splits_and_the_table() {
    let place = Place::new();
    let table = place.run(
        "eval",
        "model --val-data demo --batch-size 256 --out all.json",
    );
    for word in [
        "model",
        "demo-twemoji",
        "944 classes",
        "first-caption",
        "all-captions",
    ] {
        assert!(table.contains(word), "no {word} in:\n{table}");
    }
    assert!(table.contains("results: all.json"), "{table}");
    let results = place.json("all.json");
    let number = |name: &str| results["metrics"][name].as_f64();
    assert!(number("demo-unseen-zeroshot-val-top5").is_some());
    assert!(number("demo-sketch-all-captions-text_to_image_R@10").is_some());
    assert_eq!(results["datasets"][2]["images"], 254);
    assert_eq!(
        results["datasets"][0]["skipped"],
        Value::Object(Default::default())
    );
    assert!(!place.path("model/results.json").exists());
}
