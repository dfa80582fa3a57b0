//! The candidates of zero-shot classification: names, prompts, and which one a sample belongs to.

use super::error::{Result, input, unreadable};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The prompt where no templates are given.
pub const DEFAULT_TEMPLATE: &str = "a photo of a {c}.";

/// Class names in the order of their indices, and the prompts they are put into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSet {
    names: Vec<String>,
    templates: Vec<String>,
}

impl ClassSet {
    /// Candidates `names`, with `{c}` standing for the name in `templates`.
    ///
    /// # Errors
    /// If there is no name, no template, or a template without `{c}`.
    pub fn new(names: Vec<String>, templates: Vec<String>) -> Result<Self> {
        if names.is_empty() {
            return input("there are no class names");
        }
        if templates.is_empty() {
            return input("there are no templates");
        }
        if let Some(t) = templates.iter().find(|t| !t.contains("{c}")) {
            return input(format!("template `{t}` has no {{c}} for the class name"));
        }
        Ok(Self { names, templates })
    }

    /// Class names from a file, one a line, and templates from another; without the latter,
    /// [`DEFAULT_TEMPLATE`].
    ///
    /// # Errors
    /// If a file cannot be read, is empty, has an empty line between others (the classes after it
    /// would have wrong indices), or holds a template without `{c}`.
    pub fn from_files(names: &Path, templates: Option<&Path>) -> Result<Self> {
        let names = lines(names)?;
        let templates = match templates {
            None => vec![DEFAULT_TEMPLATE.to_string()],
            Some(path) => {
                let lines = lines(path)?;
                if let Some(i) = lines.iter().position(|t| !t.contains("{c}")) {
                    return input(format!(
                        "{}, line {}: no {{c}} for the class name in `{}`",
                        path.display(),
                        i + 1,
                        lines[i]
                    ));
                }
                lines
            }
        };
        Self::new(names, templates)
    }

    /// Names by index.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Templates with `{c}`.
    pub fn templates(&self) -> &[String] {
        &self.templates
    }

    /// All prompts of one class, in the order of the templates.
    pub fn prompts(&self, class: usize) -> impl Iterator<Item = String> + '_ {
        let name = &self.names[class];
        self.templates.iter().map(move |t| t.replace("{c}", name))
    }
}

/// The lines of a file of texts, one a line, without blanks around them. Empty lines may end the
/// file.
///
/// # Errors
/// If it cannot be read, is not UTF-8, holds nothing, or has an empty line before its end.
pub fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<String> = text
        .trim_end()
        .lines()
        .map(|l| l.trim().to_string())
        .collect();
    if lines.is_empty() {
        return input(format!("{}: the file is empty", path.display()));
    }
    match lines.iter().position(String::is_empty) {
        Some(i) => input(format!("{}, line {}: is empty", path.display(), i + 1)),
        None => Ok(lines),
    }
}

/// Candidates, and how a sample names its class.
#[derive(Clone, Debug)]
pub struct Classes {
    /// Names and prompts. Shared, so that their features are computed once for several test sets.
    pub set: Arc<ClassSet>,
    /// Which of them are candidates, by index; all of them without.
    pub subset: Option<Vec<usize>>,
    labels: HashMap<String, Label>,
}

#[derive(Clone, Debug)]
enum Label {
    Candidate(usize),
    /// Why it could be several.
    Ambiguous(String),
}

impl Classes {
    /// Samples name their class by its index or by its name.
    pub fn by_name_or_index(set: Arc<ClassSet>) -> Self {
        let mut labels = HashMap::new();
        for (i, name) in set.names().iter().enumerate() {
            labels
                .entry(name.clone())
                .and_modify(|l| *l = Label::Ambiguous("the name of several classes".into()))
                .or_insert(Label::Candidate(i));
        }
        for i in 0..set.names().len() {
            let label = match labels.get(&i.to_string()) {
                Some(Label::Candidate(j)) if *j != i => Label::Ambiguous(format!(
                    "both the index of one class and the name of another, number {j}"
                )),
                Some(l @ Label::Ambiguous(_)) => l.clone(),
                _ => Label::Candidate(i),
            };
            labels.insert(i.to_string(), label);
        }
        Self {
            set,
            subset: None,
            labels,
        }
    }

    /// Samples name their class by its position in `subset`, or in all of `set`.
    pub fn by_index(set: Arc<ClassSet>, subset: Option<Vec<usize>>) -> Self {
        let candidates = subset.as_ref().map_or(set.names().len(), Vec::len);
        let labels = (0..candidates)
            .map(|i| (i.to_string(), Label::Candidate(i)))
            .collect();
        Self {
            set,
            subset,
            labels,
        }
    }

    /// Number of candidates.
    pub fn len(&self) -> usize {
        self.subset
            .as_ref()
            .map_or(self.set.names().len(), Vec::len)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidate that `class` means, as a sample has it.
    ///
    /// # Errors
    /// If it means none, or could mean several: counting such an image as wrong would hide that the
    /// class names are not those of the data.
    pub fn label(&self, class: Option<&str>) -> Result<usize> {
        let Some(class) = class else {
            return input("has no class, neither a .cls nor `class` in its JSON");
        };
        let number = class.parse::<usize>().map(|n| n.to_string());
        let found = self
            .labels
            .get(class)
            .or_else(|| self.labels.get(&number.ok()?));
        match found {
            Some(Label::Candidate(i)) => Ok(*i),
            Some(Label::Ambiguous(why)) => input(format!("has class `{class}`, {why}")),
            None => input(format!(
                "has class `{class}`, which is neither a name nor an index of the {} classes",
                self.len()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Arc<ClassSet> {
        let names = names.iter().map(ToString::to_string).collect();
        Arc::new(ClassSet::new(names, vec!["a {c}.".into(), "{c}, {c}".into()]).unwrap())
    }

    #[test]
    fn prompts_replace_every_place() {
        let prompts: Vec<String> = set(&["cat", "dog"]).prompts(1).collect();
        assert_eq!(prompts, ["a dog.", "dog, dog"]);
        assert!(ClassSet::new(vec!["x".into()], vec!["no place".into()]).is_err());
        assert!(ClassSet::new(vec![], vec!["{c}".into()]).is_err());
    }

    #[test]
    fn names_and_indices() {
        let classes = Classes::by_name_or_index(set(&["cat", "missile", "missile", "1", "4"]));
        let label = |c| classes.label(Some(c)).map_err(|e| e.to_string());
        assert_eq!(label("cat"), Ok(0));
        assert_eq!(label("2"), Ok(2));
        assert_eq!(label("002"), Ok(2));
        assert_eq!(label("4"), Ok(4));
        assert!(label("missile").unwrap_err().contains("several"));
        assert!(label("1").unwrap_err().contains("number 3"));
        assert!(label("5").unwrap_err().contains("5 classes"));
        assert!(label("dog").is_err());
        assert!(classes.label(None).is_err());
    }

    #[test]
    fn indices_of_a_subset() {
        let classes = Classes::by_index(set(&["0", "cat", "dog"]), Some(vec![2, 1]));
        assert_eq!(classes.len(), 2);
        assert_eq!(classes.label(Some("1")).unwrap(), 1);
        assert!(classes.label(Some("2")).is_err());
        assert!(classes.label(Some("cat")).is_err());
    }

    #[test]
    fn files_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            lines(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read("\u{feff}a b \r\nc\n\n").unwrap(), ["a b", "c"]);
        assert!(read("a\n\nb\n").unwrap_err().ends_with("line 2: is empty"));
        assert!(read(" \n").is_err());
        assert!(lines(&dir.path().join("none")).is_err());
    }
}
