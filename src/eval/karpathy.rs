//! Karpathy's splits of MSCOCO and Flickr30k: `dataset_coco.json`, `dataset_flickr30k.json`.

use super::error::{Error, Result, input, unreadable};
use crate::data::sample::{ImageBytes, Sample};
use crate::data::{SkipKind, Skips};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    filename: String,
    #[serde(default)]
    filepath: String,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

/// The images of the test split that `json` lists, with all their sentences in its order. An image is
/// in `root`, or in `root`'s folder that the file names (MSCOCO's `val2014`).
///
/// # Errors
/// If the file cannot be read, is not of that form, or has no test split.
pub fn test_split(json: &Path, root: &Path) -> Result<(Vec<Sample>, Skips)> {
    if !root.is_dir() {
        return input(format!("{}: no such folder of images", root.display()));
    }
    let bytes = std::fs::read(json).map_err(|e| unreadable(json, &e))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        Error::Input(format!(
            "{}: not a file of Karpathy's splits: {e}",
            json.display()
        ))
    })?;
    let (mut samples, mut skips) = (Vec::new(), Skips::default());
    for image in file.images {
        if image.split != "test" {
            continue;
        }
        let captions: Vec<String> = image
            .sentences
            .iter()
            .map(|s| s.raw.trim().to_owned())
            .filter(|c| !c.is_empty())
            .collect();
        if captions.is_empty() {
            let place = format!("{}: {}", json.display(), image.filename);
            skips.add(SkipKind::EmptyCaption, || place);
            continue;
        }
        let nested = root.join(&image.filepath).join(&image.filename);
        let path = if nested.is_file() {
            nested
        } else {
            root.join(&image.filename)
        };
        samples.push(Sample::new(
            image.filename,
            ImageBytes::File(path),
            captions,
            None,
        ));
    }
    if samples.is_empty() {
        return input(format!("{}: no image has the split `test`", json.display()));
    }
    Ok((samples, skips))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_split_counts() {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("dataset.json");
        let text = r#"{"dataset": "coco", "images": [
            {"filepath": "val2014", "filename": "a.jpg", "split": "test", "cocoid": 1,
             "sentences": [{"raw": " one ", "tokens": ["one"]}, {"raw": ""}, {"raw": "two"}]},
            {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "x"}]},
            {"filename": "c.jpg", "split": "test", "sentences": [{"raw": "three"}]},
            {"filename": "d.jpg", "split": "test", "sentences": [{"raw": " "}]}]}"#;
        std::fs::write(&json, text).unwrap();
        std::fs::create_dir(dir.path().join("val2014")).unwrap();
        std::fs::write(dir.path().join("val2014/a.jpg"), b"").unwrap();
        let (samples, skips) = test_split(&json, dir.path()).unwrap();
        let paths: Vec<&Path> = samples
            .iter()
            .map(|s| match &s.image {
                ImageBytes::File(p) => p.strip_prefix(dir.path()).unwrap(),
                ImageBytes::Bytes(_) => panic!(),
            })
            .collect();
        assert_eq!(paths, [Path::new("val2014/a.jpg"), Path::new("c.jpg")]);
        assert_eq!(samples[0].captions, ["one", "two"]);
        assert_eq!(skips.count(SkipKind::EmptyCaption), 1);
        std::fs::write(&json, r#"{"images": []}"#).unwrap();
        assert!(test_split(&json, dir.path()).is_err());
        std::fs::write(&json, "{").unwrap();
        assert!(test_split(&json, dir.path()).is_err());
        assert!(test_split(&json, &dir.path().join("none")).is_err());
    }
}
