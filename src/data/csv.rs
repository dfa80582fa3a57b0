//! Tables of image paths and captions, as open_clip's `--train-data file.csv` reads them.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::sample::{ImageBytes, Sample, SkipKind, Skips};

/// How to read a table.
#[derive(Clone, Debug)]
pub struct CsvOptions {
    /// Column of the image's path; open_clip's default is `filepath`.
    pub image_key: String,
    /// Column of the caption; open_clip's default is `title`.
    pub caption_key: String,
    /// Between two fields; open_clip's default is a tab.
    pub separator: char,
    /// Folder that relative paths start from; without one, the working directory.
    pub data_root: Option<PathBuf>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            image_key: "filepath".into(),
            caption_key: "title".into(),
            separator: '\t',
            data_root: None,
        }
    }
}

/// Reads the table at `path`: its samples in order, and the rows that hold none.
///
/// Fields may be quoted by `"`, a quote within one is doubled; quoted fields may hold separators
/// and line ends. Images are not looked at yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Csv`] for a missing column or an open quote; [`Error::Config`] for a
/// separator that is not one ASCII character.
pub fn read(path: &Path, options: &CsvOptions) -> Result<(Vec<Sample>, Skips)> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let separator = u8::try_from(options.separator)
        .ok()
        .filter(|s| s.is_ascii() && !matches!(s, b'"' | b'\n' | b'\r'))
        .ok_or_else(|| {
            Error::Config(format!(
                "column separator {:?} is not a plain ASCII character",
                options.separator
            ))
        })?;
    let wrong = |line, reason: String| Error::Csv {
        path: path.to_owned(),
        line,
        reason,
    };
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut rows = Rows {
        rest: bytes,
        separator,
        line: 1,
    };
    let header = rows
        .next()
        .transpose()
        .map_err(|line| wrong(line, "a quote is never closed".into()))?
        .ok_or_else(|| wrong(1, "the file is empty".into()))?;
    let column = |key: &str| {
        header
            .fields
            .iter()
            .position(|f| f == key.as_bytes())
            .ok_or_else(|| {
                let names: Vec<_> = header
                    .fields
                    .iter()
                    .map(|f| String::from_utf8_lossy(f))
                    .collect();
                let reason = format!(
                    "no column '{key}' among {names:?}; name the columns and the separator by \
                     --csv-img-key, --csv-caption-key and --csv-separator"
                );
                wrong(1, reason)
            })
    };
    let (image_at, caption_at) = (column(&options.image_key)?, column(&options.caption_key)?);
    let (mut samples, mut skips) = (Vec::new(), Skips::default());
    for row in rows {
        let row = row.map_err(|line| wrong(line, "a quote is never closed".into()))?;
        match sample(&row, image_at, caption_at, options) {
            Ok(sample) => samples.push(sample),
            Err(kind) => skips.add(kind, format!("{}, line {}", path.display(), row.line)),
        }
    }
    Ok((samples, skips))
}

fn sample(
    row: &Row,
    image_at: usize,
    caption_at: usize,
    options: &CsvOptions,
) -> Result<Sample, SkipKind> {
    let image = row
        .fields
        .get(image_at)
        .and_then(|f| std::str::from_utf8(f).ok())
        .filter(|f| !f.is_empty())
        .ok_or(SkipKind::MissingImage)?;
    let caption = row.fields.get(caption_at).ok_or(SkipKind::MissingCaption)?;
    let caption = std::str::from_utf8(caption)
        .map_err(|_| SkipKind::NonUtf8Caption)?
        .trim();
    if caption.is_empty() {
        return Err(SkipKind::EmptyCaption);
    }
    let file = match &options.data_root {
        Some(root) => root.join(image),
        None => PathBuf::from(image),
    };
    Ok(Sample::new(
        image.to_owned(),
        ImageBytes::File(file),
        vec![caption.to_owned()],
        None,
    ))
}

struct Row {
    line: usize,
    fields: Vec<Vec<u8>>,
}

/// The rows of a table; the error is the line of a quote that is never closed.
struct Rows<'a> {
    rest: &'a [u8],
    separator: u8,
    line: usize,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        // Empty lines hold no row.
        while let [b'\n' | b'\r', rest @ ..] = self.rest {
            self.line += usize::from(self.rest[0] == b'\n');
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            let mut field = Vec::new();
            if let [b'"', rest @ ..] = self.rest {
                self.rest = rest;
                loop {
                    match self.rest {
                        [b'"', b'"', rest @ ..] => {
                            field.push(b'"');
                            self.rest = rest;
                        }
                        [b'"', rest @ ..] => {
                            self.rest = rest;
                            break;
                        }
                        [byte, rest @ ..] => {
                            self.line += usize::from(*byte == b'\n');
                            field.push(*byte);
                            self.rest = rest;
                        }
                        [] => return Some(Err(line)),
                    }
                }
            }
            let end = self
                .rest
                .iter()
                .position(|&b| b == self.separator || b == b'\n')
                .unwrap_or(self.rest.len());
            field.extend_from_slice(&self.rest[..end]);
            let more = self.rest.get(end) == Some(&self.separator);
            if !more && field.last() == Some(&b'\r') {
                field.pop();
            }
            self.line += usize::from(self.rest.get(end) == Some(&b'\n'));
            self.rest = self.rest.get(end + 1..).unwrap_or(&[]);
            fields.push(field);
            if !more {
                return Some(Ok(Row { line, fields }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8], options: &CsvOptions) -> Result<(Vec<Sample>, Skips)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        std::fs::write(&path, text).unwrap();
        read(&path, options)
    }

    #[test]
    fn quotes_line_ends_and_skips() {
        let options = CsvOptions {
            separator: ',',
            data_root: Some("/data".into()),
            ..CsvOptions::default()
        };
        let text = b"\xEF\xBB\xBFid,title,filepath\r\n1,\"a, \"\"b\"\"\nc\",x.jpg\r\n\r\n\
            2,  ,y.jpg\n3,\xFF,z.jpg\n4,only\n5,a 6\" ruler,/abs/w.jpg";
        let (samples, skips) = parse(text, &options).unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].captions, ["a, \"b\"\nc"]);
        assert!(matches!(&samples[0].image, ImageBytes::File(p) if p == Path::new("/data/x.jpg")));
        assert_eq!(samples[1].captions, ["a 6\" ruler"]);
        assert!(matches!(&samples[1].image, ImageBytes::File(p) if p == Path::new("/abs/w.jpg")));
        assert_eq!(skips.count(SkipKind::EmptyCaption), 1);
        assert_eq!(skips.count(SkipKind::NonUtf8Caption), 1);
        assert_eq!(skips.count(SkipKind::MissingImage), 1);
        assert!(skips.to_string().contains("line 5"), "{skips}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let options = CsvOptions::default();
        let error = parse(b"path\ttitle\n", &options).err().unwrap();
        assert!(error.to_string().contains("'filepath'"), "{error}");
        let error = parse(b"filepath\ttitle\na\tb\nc\t\"d", &options)
            .err()
            .unwrap();
        assert!(error.to_string().contains("line 3"), "{error}");
        assert!(parse(b"", &options).is_err());
        assert!(read(Path::new("/nowhere/x.csv"), &options).is_err());
    }
}
