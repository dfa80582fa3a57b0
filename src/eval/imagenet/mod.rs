//! ImageNet's classes, and how its test sets name them.
//!
//! Val, ImageNet-R and ImageNet-Sketch have a folder a class named by its WordNet id; ImageNet-V2
//! names it by the class's index. README.md in this folder says where the names are from.

use super::classes::{ClassSet, Classes};
use super::error::Result;
use std::collections::HashMap;
use std::sync::Arc;

/// A test set of ImageNet's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestSet {
    /// The validation images, sorted into folders.
    Val,
    /// ImageNet-V2, matched frequency (Recht et al., arXiv 1902.10811).
    V2,
    /// Renditions of 200 of the classes (Hendrycks et al., arXiv 2006.16241).
    R,
    /// Sketches (Wang et al., arXiv 1905.13549).
    Sketch,
}

impl TestSet {
    /// Its name in open_clip's and CLIP-KD's results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Val => "imagenet",
            Self::V2 => "imagenetv2",
            Self::R => "imagenet-r",
            Self::Sketch => "imagenet-sketch",
        }
    }

    /// How its folders are named, for messages.
    pub fn folders(self) -> &'static str {
        match self {
            Self::V2 => "class indices 0 to 999",
            Self::R => "the WordNet ids of ImageNet-R's 200 classes (n01443537)",
            Self::Val | Self::Sketch => "WordNet ids (n01440764)",
        }
    }

    /// Its candidates out of ImageNet's `set`: all, or R's 200 in class order.
    pub fn classes(self, set: Arc<ClassSet>) -> Classes {
        Classes::by_index(set, (self == Self::R).then(r_subset))
    }

    /// The candidate of each folder, by the folder's name.
    pub fn candidate_of_folder(self) -> HashMap<String, usize> {
        let own = |l: Vec<&'static str>| l.into_iter().map(str::to_owned).zip(0..).collect();
        match self {
            Self::Val | Self::Sketch => own(wnids()),
            Self::R => {
                let all = wnids();
                own(r_subset().into_iter().map(|i| all[i]).collect())
            }
            Self::V2 => (0..wnids().len()).map(|i| (i.to_string(), i)).collect(),
        }
    }
}

/// The 1000 classes with OpenAI's 80 templates.
pub fn class_set() -> Result<Arc<ClassSet>> {
    let own = |text: &str| text.lines().map(str::to_owned).collect();
    let (names, templates) = (
        own(include_str!("classnames.txt")),
        own(include_str!("templates.txt")),
    );
    Ok(Arc::new(ClassSet::new(names, templates)?))
}

/// WordNet ids in class order.
pub fn wnids() -> Vec<&'static str> {
    include_str!("wnids.txt").lines().collect()
}

/// Indices of ImageNet-R's classes among the 1000, ascending.
pub fn r_subset() -> Vec<usize> {
    let of_r: Vec<&str> = include_str!("imagenet_r.txt").lines().collect();
    (0..)
        .zip(wnids())
        .filter(|(_, w)| of_r.contains(w))
        .map(|(i, _)| i)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_whole() {
        let set = class_set().unwrap();
        assert_eq!((set.names().len(), set.templates().len()), (1000, 80));
        let ids = wnids();
        assert_eq!(ids.len(), 1000);
        // ImageNet's class order is that of the ids, so any slip would show here.
        assert!(ids.is_sorted_by(|a, b| a < b));
        for (index, wnid, name) in [
            (0, "n01440764", "tench"),
            (134, "n02012849", "crane bird"),
            (517, "n03126707", "construction crane"),
            (999, "n15075141", "toilet paper"),
        ] {
            assert_eq!((ids[index], set.names()[index].as_str()), (wnid, name));
        }
        assert!(
            set.templates()
                .contains(&"a tattoo of the {c}.".to_string())
        );
    }

    #[test]
    fn folders_find_their_class() {
        let of = TestSet::candidate_of_folder;
        assert_eq!(of(TestSet::Val)["n02012849"], 134);
        assert_eq!(of(TestSet::V2)["134"], 134);
        assert_eq!(of(TestSet::V2).len(), 1000);
        let subset = r_subset();
        assert_eq!(subset.len(), 200);
        // Goldfish is class 1 of ImageNet and the first of ImageNet-R; tench is not in it.
        assert_eq!((subset[0], of(TestSet::R)["n01443537"]), (1, 0));
        assert!(!of(TestSet::R).contains_key("n01440764"));
        for (wnid, candidate) in of(TestSet::R) {
            assert_eq!(wnids()[subset[candidate]], wnid);
        }
        let r = TestSet::R.classes(class_set().unwrap());
        assert_eq!((r.len(), r.set.names().len()), (200, 1000));
    }
}
