//! Folders of images: a plain one, or one of a folder a class.

use super::error::{Result, input, unreadable};
use crate::data::pattern::is_image;
use crate::data::sample::{ImageBytes, Sample};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Folders nested deeper than this are not searched.
const MAX_DEPTH: usize = 32;

/// All JPEG, PNG and WebP files in `root` and the folders below it, sorted by their paths. Hidden
/// files and folders are left out, links to folders are not followed.
///
/// # Errors
/// If a folder cannot be read.
pub fn images_under(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(root, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for (path, name) in entries(folder)? {
        let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        if is_folder && depth < MAX_DEPTH {
            collect(&path, depth + 1, found)?;
        } else if is_image(&name) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// The entries of a folder that are not hidden, in no order.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let error = |e| unreadable(folder, &e);
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.starts_with("__") {
            out.push((entry.path(), name));
        }
    }
    Ok(out)
}

/// The images of a plain folder, named by their paths within it.
///
/// # Errors
/// As [`images_under`], or if no image is found.
pub fn plain(root: &Path) -> Result<Vec<Sample>> {
    let samples: Vec<Sample> = images_under(root)?
        .into_iter()
        .map(|path| sample(root, path, None))
        .collect();
    if samples.is_empty() {
        return input(format!(
            "{}: no JPEG, PNG or WebP files there",
            root.display()
        ));
    }
    Ok(samples)
}

fn sample(root: &Path, path: PathBuf, class: Option<usize>) -> Sample {
    let key = path.strip_prefix(root).unwrap_or(&path);
    let key = key.to_string_lossy().replace('\\', "/");
    let class = class.map(|c| c.to_string());
    Sample::new(key, ImageBytes::File(path), Vec::new(), class)
}

/// The images of `root`'s folders, class by class. A sample's class is the number that `class_of` has
/// for its folder's name, so that no order of names matters. `named` says how folders are named.
///
/// # Errors
/// If a folder cannot be read, is not in `class_of`, or no image is found.
pub fn by_class(
    root: &Path,
    class_of: &HashMap<String, usize>,
    named: &str,
) -> Result<Vec<Sample>> {
    let mut folders = Vec::new();
    for (path, name) in entries(root)? {
        if !path.is_dir() {
            continue;
        }
        match class_of.get(&name) {
            Some(&class) => folders.push((class, path)),
            None => {
                return input(format!(
                    "{}: is no class; the folders must be named by {named}",
                    path.display()
                ));
            }
        }
    }
    folders.sort();
    let mut samples = Vec::new();
    for (class, folder) in folders {
        for path in images_under(&folder)? {
            samples.push(sample(root, path, Some(class)));
        }
    }
    if samples.is_empty() {
        return input(format!(
            "{}: no images there in a folder a class, named by {named}",
            root.display()
        ));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        dir
    }

    #[test]
    fn plain_folders_are_sorted() {
        let dir = tree(&["b/2.PNG", "a.jpeg", "b/1.webp", "notes.txt", ".x/3.jpg"]);
        let keys: Vec<String> = plain(dir.path())
            .unwrap()
            .into_iter()
            .map(|s| s.key)
            .collect();
        assert_eq!(keys, ["a.jpeg", "b/1.webp", "b/2.PNG"]);
        assert!(plain(tree(&["x.txt"]).path()).is_err());
        assert!(plain(&dir.path().join("none")).is_err());
    }

    #[test]
    fn class_folders_go_by_number() {
        let files: Vec<String> = (0..12).map(|i| format!("{i}/x.JPEG")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let dir = tree(&files);
        let class_of = (0..12).map(|i| (i.to_string(), i)).collect();
        let samples = by_class(dir.path(), &class_of, "numbers").unwrap();
        for (i, sample) in samples.iter().enumerate() {
            assert_eq!(sample.key, format!("{i}/x.JPEG"));
            assert_eq!(sample.class, Some(i.to_string()));
        }
        std::fs::create_dir(dir.path().join("12")).unwrap();
        let error = by_class(dir.path(), &class_of, "numbers").unwrap_err();
        assert!(error.to_string().contains("12: is no class"), "{error}");
        assert!(by_class(tree(&["x.jpg"]).path(), &class_of, "numbers").is_err());
    }
}
