//! ImageNet's test sets: folders by class index and by WordNet id, and ImageNet-R's 200 classes.

use super::naive;
use super::place::{Place, Towers, picture};
use clip_distill::eval::imagenet::{class_set, r_subset, wnids};

const IMAGES: usize = 24;

/// Each image's label: every other image has the class that the model finds nearest, the rest others.
fn labels(images: &[Vec<f32>], classes: &[Vec<f32>], others: usize) -> Vec<usize> {
    let of = |i: usize| {
        let score = |c: &usize| naive::dot(&images[i], &classes[*c]);
        (0..classes.len())
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .unwrap()
    };
    (0..images.len())
        .map(|i| {
            if i.is_multiple_of(2) {
                of(i)
            } else {
                i * 7 % others
            }
        })
        .collect()
}

#[test]
fn folders_mean_their_class_whatever_their_order() {
    let place = Place::new();
    let towers = Towers::new(&place.path("model/model.safetensors"));
    let set = class_set().unwrap();
    let prompts: Vec<String> = (0..1000).flat_map(|i| set.prompts(i)).collect();
    assert_eq!(prompts.len(), 80_000);
    place.write("prompts.txt", prompts.join("\n"));
    let rows = place.rows("model --texts prompts.txt", "text_features");
    let classes: Vec<Vec<f32>> = rows.chunks(80).map(naive::class_embedding).collect();
    let of_r: Vec<Vec<f32>> = r_subset().into_iter().map(|i| classes[i].clone()).collect();
    let images: Vec<Vec<f32>> = (0..IMAGES as u64)
        .map(|i| towers.image(&picture(i)))
        .collect();
    // Labels below 12 among them: the folders "10" and "11" sort before "2".
    let all = labels(&images, &classes, 12);
    let r = labels(&images, &of_r, 200);
    let ids = wnids();
    for i in 0..IMAGES {
        let put = |folder: String| place.write(&format!("{folder}/{i}.JPEG"), picture(i as u64));
        put(format!("v2/{}", all[i]));
        put(format!("val/{}", ids[all[i]]));
        put(format!("sketch/{}", ids[all[i]]));
        put(format!("r/{}", ids[r_subset()[r[i]]]));
    }
    place.write("r/README.txt", "no image");
    let metrics = place.metrics(
        "model --imagenet-val val --imagenet-v2 v2 --imagenet-r r --imagenet-sketch sketch",
    );
    for (name, classes, labels) in [
        ("imagenet", &classes, &all),
        ("imagenetv2", &classes, &all),
        ("imagenet-sketch", &classes, &all),
        ("imagenet-r", &of_r, &r),
    ] {
        for k in [1, 5] {
            let range = naive::accuracy(&images, classes, labels, k);
            assert!(range.0 >= 0.4, "{name}: {range:?} says nothing");
            let name = format!("{name}-zeroshot-val-top{k}");
            naive::within(&name, &metrics[&name], range);
        }
    }
    let results = place.json("model/results.json");
    let classes: Vec<u64> = results["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["classes"].as_u64().unwrap())
        .collect();
    assert_eq!(classes, [1000, 1000, 200, 1000]);
}

#[test]
fn strange_folders_are_refused() {
    let place = Place::new();
    place.write("v2/n01440764/x.jpg", picture(0));
    place.refuses(
        "eval",
        "model --imagenet-v2 v2",
        &["v2/n01440764", "class indices"],
    );
    place.write("v2b/1000/x.jpg", picture(0));
    place.refuses("eval", "model --imagenet-v2 v2b", &["v2b/1000"]);
    place.write("val/12/x.jpg", picture(0));
    place.refuses("eval", "model --imagenet-val val", &["val/12", "WordNet"]);
    place.refuses(
        "eval",
        "model --imagenet-sketch val",
        &["val/12", "WordNet"],
    );
    // Tench is a class of ImageNet, but not of ImageNet-R.
    place.write("r/n01440764/x.jpg", picture(0));
    place.refuses("eval", "model --imagenet-r r", &["r/n01440764", "200"]);
    place.write("flat/x.jpg", picture(0));
    place.refuses(
        "eval",
        "model --imagenet-val flat",
        &["flat", "folder a class"],
    );
    place.refuses("eval", "model --imagenet-val none", &["none"]);
}
