//! Shard names as open_clip writes them: `a/{00000..00331}.tar::b/*.tar`.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// More names than this from one pattern are a slip of the pen, not a dataset; so are more bytes of them.
const MAX_NAMES: usize = 1_000_000;
const MAX_BYTES: usize = 1 << 28;
/// Of folders in a folder of shards.
const MAX_DEPTH: usize = 8;
/// Of a number in a range, its padding included.
const MAX_DIGITS: usize = 64;

/// Where the bytes of one shard are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardSource {
    /// A file: a tar, plain or compressed.
    Path(PathBuf),
    /// A program that writes the tar to its standard output.
    Command {
        /// As it was given, for messages.
        name: String,
        /// The program and its arguments.
        words: Vec<String>,
    },
    /// A tar, plain or gzipped, inside the binary.
    Memory {
        /// A name for messages.
        name: String,
        /// The whole file.
        bytes: &'static [u8],
    },
}

impl ShardSource {
    /// The path, or the name of one in memory.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Memory { name, .. } | Self::Command { name, .. } => name.clone(),
        }
    }

    /// What a name stands for: a shell's command after `pipe:`, an address that curl, gsutil or aws read, else a
    /// file.
    ///
    /// # Errors
    /// The reason, for an address of another kind.
    fn named(name: &str) -> Result<Self, String> {
        let words: Vec<&str> = if let Some(command) = name.strip_prefix("pipe:") {
            match cfg!(windows) {
                true => vec!["cmd", "/C", command],
                false => vec!["sh", "-c", command],
            }
        } else {
            match name.split_once("://").map(|(scheme, _)| scheme) {
                None => return Ok(Self::Path(PathBuf::from(name))),
                Some("file") => return Ok(Self::Path(PathBuf::from(&name["file://".len()..]))),
                Some("http" | "https") => {
                    vec![
                        "curl",
                        "--fail",
                        "--silent",
                        "--show-error",
                        "--location",
                        "--retry",
                        "5",
                        name,
                    ]
                }
                Some("gs") => vec!["gsutil", "cat", name],
                Some("s3") => vec!["aws", "s3", "cp", name, "-"],
                Some(scheme) => {
                    return Err(format!(
                        "no program is known for {scheme}://; `pipe:COMMAND` reads what a command writes"
                    ));
                }
            }
        };
        Ok(Self::Command {
            name: name.to_owned(),
            words: words.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Expands a list of patterns separated by `::` to the shards they name, in order.
///
/// `{00..12}` counts (keeping the width), `{a,b}` lists, both nest; `*` and `?` match within one
/// folder level, sorted by name. A folder stands for the tars in it and below it. `pipe:COMMAND` is a command that
/// writes a shard, `http://`, `https://`, `gs://` and `s3://` are addresses that curl, gsutil and aws read.
///
/// # Errors
/// [`Error::MissingShard`] for a name without a file, [`Error::Pattern`] for braces that do not
/// pair, an empty list, a wildcard that matches nothing or a folder without tars.
pub fn expand(patterns: &str) -> Result<Vec<ShardSource>> {
    let mut shards = Vec::new();
    for group in expand_groups(patterns)? {
        shards.extend(group);
    }
    Ok(shards)
}

/// [`expand`], one list for each of the parts between `::`, as upsampling factors count them.
///
/// # Errors
/// As [`expand`].
pub fn expand_groups(patterns: &str) -> Result<Vec<Vec<ShardSource>>> {
    patterns.split("::").map(expand_one).collect()
}

fn expand_one(pattern: &str) -> Result<Vec<ShardSource>> {
    let wrong = |reason: &str| Error::Pattern {
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    };
    if pattern.trim().is_empty() {
        return Err(wrong("is empty"));
    }
    let mut shards = Vec::new();
    for name in braces(pattern).map_err(|reason| wrong(&reason))? {
        let source = ShardSource::named(&name).map_err(|reason| wrong(&reason))?;
        let ShardSource::Path(path) = &source else {
            shards.push(source);
            continue;
        };
        if path.is_dir() {
            let mut found = Vec::new();
            tars_under(path, 0, &mut found).map_err(|(path, source)| Error::Io { path, source })?;
            if found.is_empty() {
                return Err(wrong("is a folder without any .tar"));
            }
            shards.extend(found.into_iter().map(ShardSource::Path));
        } else if !path.is_file() && name.contains(['*', '?']) {
            let found =
                glob(Path::new(&name)).map_err(|(path, source)| Error::Io { path, source })?;
            if found.is_empty() {
                return Err(wrong("matches no file"));
            }
            shards.extend(found.into_iter().map(ShardSource::Path));
        } else {
            // A named pipe is no plain file, and may be read.
            if !path.exists() {
                return Err(Error::MissingShard { path: path.clone() });
            }
            shards.push(source);
        }
    }
    Ok(shards)
}

/// Extensions of images. AVIF and HEIC are among them so that they are skipped by name and counted.
const IMAGES: [&str; 12] = [
    "jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif",
];

/// Whether a file of this name is taken for an image.
pub fn is_image(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| IMAGES.iter().any(|i| e.eq_ignore_ascii_case(i)))
}

/// Whether a file of this name is taken for a shard.
pub(super) fn is_tar(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut parts = name.rsplit('.');
    match parts.next() {
        Some("tar" | "tgz" | "tbz2" | "txz" | "tzst") => name.contains('.'),
        Some("gz" | "bz2" | "xz" | "zst") => parts.next() == Some("tar"),
        _ => false,
    }
}

/// The shards in `folder` and the folders below it, sorted by path.
fn tars_under(
    folder: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let wrong = |e| (folder.to_owned(), e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        paths.push(entry.map_err(wrong)?.path());
    }
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') {
            continue;
        }
        // Links may lead in circles.
        if path.is_dir() && depth < MAX_DEPTH {
            tars_under(&path, depth + 1, found)?;
        } else if is_tar(&name) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// All strings that `pattern` stands for, as a shell expands braces.
///
/// # Errors
/// The reason, for braces that do not pair or far too many names.
pub fn braces(pattern: &str) -> Result<Vec<String>, String> {
    // Bounds the recursion below.
    if pattern.matches('{').count() > 64 {
        return Err("holds more than 64 braces".into());
    }
    // A brace that holds neither a comma nor a range is text; its content may still hold braces.
    let Some(open) = pattern.find('{') else {
        return if pattern.contains('}') {
            Err("a '}' closes nothing".into())
        } else {
            Ok(vec![pattern.to_owned()])
        };
    };
    if pattern[..open].contains('}') {
        return Err("a '}' closes nothing".into());
    }
    let mut depth = 0usize;
    let mut parts = Vec::new();
    let mut start = open + 1;
    let mut close = None;
    for (i, c) in pattern[open..].char_indices().map(|(i, c)| (open + i, c)) {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&pattern[start..i]);
                    close = Some(i);
                    break;
                }
            }
            ',' if depth == 1 => {
                parts.push(&pattern[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    let close = close.ok_or("a '{' is never closed")?;
    let middle: Vec<String> = if let [single] = parts[..] {
        match range(single)? {
            Some(names) => names,
            None => braces(single)?
                .into_iter()
                .map(|s| format!("{{{s}}}"))
                .collect(),
        }
    } else {
        let mut all = Vec::new();
        for part in parts {
            all.extend(braces(part)?);
            check_amount(all.len(), bytes(&all))?;
        }
        all
    };
    let tails = braces(&pattern[close + 1..])?;
    let head = &pattern[..open];
    let names = middle.len() * tails.len();
    let size = names * head.len() + bytes(&middle) * tails.len() + middle.len() * bytes(&tails);
    check_amount(names, size)?;
    Ok(middle
        .iter()
        .flat_map(|m| tails.iter().map(move |t| format!("{head}{m}{t}")))
        .collect())
}

fn bytes(names: &[String]) -> usize {
    names.iter().map(String::len).sum()
}

/// Refuses an expansion before it is made: nested lists multiply.
fn check_amount(names: usize, bytes: usize) -> Result<(), String> {
    if names > MAX_NAMES {
        return Err(format!("stands for more than {MAX_NAMES} names"));
    }
    if bytes > MAX_BYTES {
        return Err(format!("stands for more than {MAX_BYTES} bytes of names"));
    }
    Ok(())
}

/// `00..12` or `0..12..3`, both ends included; `None` for anything but a range of numbers.
fn range(text: &str) -> Result<Option<Vec<String>>, String> {
    let parts: Vec<&str> = text.split("..").collect();
    let numbers: Option<Vec<i64>> = parts.iter().map(|p| p.parse().ok()).collect();
    let (Some(numbers), 2 | 3) = (numbers, parts.len()) else {
        return Ok(None);
    };
    let (from, to) = (numbers[0], numbers[1]);
    let step = numbers.get(2).copied().unwrap_or(1).unsigned_abs().max(1);
    let count = (from.abs_diff(to) / step).saturating_add(1);
    let longest = parts.iter().map(|p| p.len()).max().unwrap_or(0);
    if longest > MAX_DIGITS {
        return Err(format!("holds a number of more than {MAX_DIGITS} digits"));
    }
    check_amount(usize::try_from(count).unwrap_or(usize::MAX), 0)?;
    // As a shell does: a leading zero at either end fixes the width of all.
    let padded = |p: &str| {
        let digits = p.trim_start_matches('-');
        digits.len() > 1 && digits.starts_with('0')
    };
    let width = if padded(parts[0]) || padded(parts[1]) {
        parts[0].len().max(parts[1].len())
    } else {
        0
    };
    let step = if from <= to {
        step as i128
    } else {
        -(step as i128)
    };
    Ok(Some(
        (0..count)
            .map(|i| i128::from(from) + step * i128::from(i))
            .map(|n| format!("{n:0width$}"))
            .collect(),
    ))
}

/// The files that `pattern` matches, sorted.
fn glob(pattern: &Path) -> Result<Vec<PathBuf>, (PathBuf, std::io::Error)> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let text = component.as_os_str().to_string_lossy();
        if !text.contains(['*', '?']) {
            for path in &mut found {
                path.push(component);
            }
            continue;
        }
        let mut next = Vec::new();
        for folder in &found {
            let look = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            let entries = match std::fs::read_dir(look) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => continue,
                Err(e) => return Err((look.to_owned(), e)),
            };
            for entry in entries {
                let name = entry.map_err(|e| (look.to_owned(), e))?.file_name();
                let shown = name.to_string_lossy();
                // As in a shell, hidden files must be asked for.
                let hidden = shown.starts_with('.') && !text.starts_with('.');
                if !hidden && matches(text.as_bytes(), shown.as_bytes()) {
                    next.push(folder.join(&name));
                }
            }
        }
        found = next;
    }
    found.retain(|path| path.is_file());
    found.sort();
    Ok(found)
}

/// Whether `name` matches `pattern` with `*` and `?`, in time linear in their product.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_expand_as_in_a_shell() {
        assert_eq!(
            braces("{08..11}.tar").unwrap(),
            ["08.tar", "09.tar", "10.tar", "11.tar"]
        );
        assert_eq!(braces("{3..1}").unwrap(), ["3", "2", "1"]);
        assert_eq!(braces("{0..6..3}").unwrap(), ["0", "3", "6"]);
        assert_eq!(braces("a{b,{1..2}}c").unwrap(), ["abc", "a1c", "a2c"]);
        assert_eq!(braces("{a,b}{0..1}").unwrap(), ["a0", "a1", "b0", "b1"]);
        assert_eq!(braces("x{y}z").unwrap(), ["x{y}z"]);
        assert_eq!(braces("plain").unwrap(), ["plain"]);
        assert_eq!(braces("{000..331}").unwrap().len(), 332);
        for bad in ["{1..2", "1..2}", "}{", "{0..99999999999}"] {
            assert!(braces(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_patterns_cannot_fill_the_memory() {
        let many = vec!["{0..999999}"; 60].join(",");
        let long = "x".repeat(1000);
        let zeros = "0".repeat(70_000);
        for bad in [
            format!("{{{many}}}"),
            "{0..999}{0..999}{0..999}".to_owned(),
            format!("{long}{{0..999999}}"),
            format!("{{{zeros}1..2}}"),
        ] {
            let error = braces(&bad).unwrap_err();
            assert!(error.contains("more than"), "{error}");
        }
    }

    #[test]
    fn wildcards() {
        for (p, n, yes) in [
            ("*.tar", "a.tar", true),
            ("*.tar", "a.tar.gz", false),
            ("a?c*", "abc", true),
            ("*a*b*", "xxaxxb", true),
            ("*a*b", "xxaxxc", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(p.as_bytes(), n.as_bytes()), yes, "{p} {n}");
        }
    }

    #[test]
    fn missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        for name in ["b1.tar", "b0.tar", "c.txt", ".hidden.tar"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let found = expand(&format!("{root}/*.tar::{root}/c.txt")).unwrap();
        let names: Vec<String> = found.iter().map(ShardSource::name).collect();
        assert_eq!(
            names,
            ["b0.tar", "b1.tar", "c.txt"].map(|n| format!("{root}/{n}"))
        );
        let error = expand(&format!("{root}/b{{0..2}}.tar")).unwrap_err();
        assert!(error.to_string().ends_with("b2.tar"), "{error}");
        assert!(expand(&format!("{root}/*.zip")).is_err());
        assert!(expand(&format!("{root}/b0.tar::")).is_err());
        // A folder stands for its shards; commands and addresses need not be there.
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/0.tar.gz"), b"").unwrap();
        let found = expand(&root.to_string()).unwrap();
        let names: Vec<String> = found.iter().map(ShardSource::name).collect();
        assert_eq!(
            names,
            ["b0.tar", "b1.tar", "d/0.tar.gz"].map(|n| format!("{root}/{n}"))
        );
        std::fs::remove_file(folder.path().join("d/0.tar.gz")).unwrap();
        assert!(expand(&format!("{root}/d")).is_err());
        let found = expand("pipe:cat {0..1}.tar::s3://a/b.tar").unwrap();
        let names: Vec<String> = found.iter().map(ShardSource::name).collect();
        assert_eq!(names, ["pipe:cat 0.tar", "pipe:cat 1.tar", "s3://a/b.tar"]);
        assert!(matches!(&found[2], ShardSource::Command { words, .. } if words[0] == "aws"));
        assert!(expand("ftp+x://a/b.tar").is_err());
    }
}
