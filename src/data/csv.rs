//! Tables of image paths and captions, as open_clip's `--train-data file.csv` reads them.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::bytes;
use super::error::{Error, Result};
use super::pattern::is_image;
use super::sample::{ImageBytes, Sample};
use super::skips::{SkipKind, Skips};

/// Of a file, to see whether it begins as a table.
const HEAD: u64 = 1 << 16;

/// Between two fields, where no flag says it.
const SEPARATORS: [u8; 4] = [b'\t', b',', b'|', b';'];

/// How to read a table.
#[derive(Clone, Debug)]
pub struct CsvOptions {
    /// Column of the image's path; open_clip's default is `filepath`.
    pub image_key: String,
    /// Column of the caption; open_clip's default is `title`.
    pub caption_key: String,
    /// Between two fields. If it is not given, the one of tab, comma, pipe and semicolon by which the header
    /// has both columns.
    pub separator: Option<char>,
    /// Folder that relative paths start from; without one, the working directory.
    pub data_root: Option<PathBuf>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            image_key: "filepath".into(),
            caption_key: "title".into(),
            separator: None,
            data_root: None,
        }
    }
}

/// Reads the table at `path`: its samples in order, and the rows that hold none.
///
/// Fields may be quoted by `"`, a quote within one is doubled; quoted fields may hold separators
/// and line ends. Lines end by LF, CR LF or CR; the text is UTF-8 or, by its mark, UTF-16; the file may be
/// compressed. Images are not looked at yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Csv`] for a missing column, an open quote, or a row with more or fewer fields than the
/// header; [`Error::Config`] for a separator that is not one ASCII character.
pub fn read(path: &Path, options: &CsvOptions) -> Result<(Vec<Sample>, Skips)> {
    let separator = match options.separator {
        Some(given) => Some(
            u8::try_from(given)
                .ok()
                .filter(|s| s.is_ascii() && !matches!(s, b'"' | b'\n' | b'\r'))
                .ok_or_else(|| {
                    Error::Config(format!(
                        "column separator {given:?} is not a plain ASCII character"
                    ))
                })?,
        ),
        None => None,
    };
    let wrong = |line, reason: String| Error::Csv {
        path: path.to_owned(),
        line,
        reason,
    };
    let bytes = content(path)?;
    let text = utf8(&bytes).ok_or_else(|| wrong(1, "UTF-16 with half a character".into()))?;
    if text.contains(&0) {
        let reason = "a NUL byte: the file is no table, or UTF-16 without its mark";
        return Err(wrong(1, reason.into()));
    }
    let (mut rows, header) =
        header(&text, separator, options).map_err(|(line, r)| wrong(line, r))?;
    let (mut samples, mut skips) = (Vec::new(), Skips::default());
    while let Some(row) = rows.next() {
        let row = row.map_err(|line| wrong(line, "a quote is never closed".into()))?;
        if row.fields.len() != header.fields {
            // A line of blanks alone is no row.
            if row.fields.len() == 1 && row.fields[0].iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let reason = format!(
                "{} fields, the header has {}: a field with a {} in it must be quoted",
                row.fields.len(),
                header.fields,
                name_of(rows.separator)
            );
            return Err(wrong(row.line, reason));
        }
        match sample(&row, &header, options) {
            Ok(sample) => samples.push(sample),
            Err(kind) => skips.add(kind, || format!("{}, line {}", path.display(), row.line)),
        }
    }
    Ok((samples, skips))
}

/// Whether the file at `path` begins with a header that has both columns.
pub(super) fn is_table(path: &Path, options: &CsvOptions) -> bool {
    let head = || -> std::io::Result<Vec<u8>> {
        let file = std::io::BufReader::new(std::fs::File::open(path)?);
        let mut head = Vec::new();
        bytes::decompressed(Box::new(file))?
            .take(HEAD)
            .read_to_end(&mut head)?;
        Ok(head)
    };
    let Ok(head) = head() else { return false };
    let even = &head[..head.len() & !1];
    let Some(text) = utf8(even) else { return false };
    let line = text
        .split(|b| matches!(b, b'\n' | b'\r'))
        .next()
        .unwrap_or_default();
    header(line, None, options).is_ok()
}

/// The whole file, decompressed.
fn content(path: &Path) -> Result<Vec<u8>> {
    let error = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(error)?;
    let reader = std::io::BufReader::with_capacity(1 << 16, file);
    let mut all = Vec::new();
    bytes::decompressed(Box::new(reader))
        .and_then(|mut bytes| bytes.read_to_end(&mut all))
        .map_err(error)?;
    Ok(all)
}

/// Bytes of UTF-8, or of UTF-16 by its mark, as UTF-8 without a mark.
fn utf8(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let decode = |unit: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units = bytes.chunks_exact(2).map(|b| unit([b[0], b[1]]));
        let text: Option<String> = char::decode_utf16(units).map(|c| c.ok()).collect();
        let even = bytes.len().is_multiple_of(2);
        Some(Cow::Owned(text.filter(|_| even)?.into_bytes()))
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => Some(Cow::Borrowed(rest)),
        [0xff, 0xfe, rest @ ..] => decode(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => decode(u16::from_be_bytes, rest),
        _ => Some(Cow::Borrowed(bytes)),
    }
}

/// Where the header has what is needed.
struct Header {
    fields: usize,
    image_at: usize,
    caption_at: usize,
}

/// Reads the header, by `separator` or by whichever leaves no doubt; gives the rows after it.
fn header<'a>(
    text: &'a [u8],
    separator: Option<u8>,
    options: &CsvOptions,
) -> Result<(Rows<'a>, Header), (usize, String)> {
    let begin = |separator| -> Result<(Rows<'a>, Row), (usize, String)> {
        let mut rows = Rows {
            rest: text,
            separator,
            line: 1,
        };
        let row = rows.next().ok_or((1, "the file is empty".to_owned()))?;
        let row = row.map_err(|line| (line, "a quote is never closed".to_owned()))?;
        Ok((rows, row))
    };
    let column = |row: &Row, key: &str| row.fields.iter().position(|f| f == key.as_bytes());
    let both = |row: &Row| {
        let found = (
            column(row, &options.image_key)?,
            column(row, &options.caption_key)?,
        );
        Some(Header {
            fields: row.fields.len(),
            image_at: found.0,
            caption_at: found.1,
        })
    };
    let candidates: Vec<u8> = separator.map_or(SEPARATORS.to_vec(), |s| vec![s]);
    let mut found = Vec::new();
    for &candidate in &candidates {
        let (rows, row) = begin(candidate)?;
        found.extend(both(&row).map(|header| (rows, header)));
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => return Ok(only),
        (Some(_), false) => {
            let reason =
                "the header has both columns by several separators; name it by --csv-separator";
            return Err((1, reason.into()));
        }
        (None, _) => {}
    }
    // What the header does hold, by the separator that finds the most in it.
    let mut best = begin(candidates[0])?.1.fields;
    for &candidate in &candidates[1..] {
        let fields = begin(candidate)?.1.fields;
        if fields.len() > best.len() {
            best = fields;
        }
    }
    let names: Vec<_> = best.iter().map(|f| String::from_utf8_lossy(f)).collect();
    let key = match best.iter().any(|f| f == options.image_key.as_bytes()) {
        true => &options.caption_key,
        false => &options.image_key,
    };
    let looks_like_data = names.iter().any(|name| is_image(name));
    let hint = match looks_like_data {
        true => "the first line looks like data: a table begins with the names of its columns; ",
        false => "",
    };
    let reason = format!(
        "no column '{key}' among {names:?}; {hint}name the columns and the separator by \
         --csv-img-key, --csv-caption-key and --csv-separator"
    );
    Err((1, reason))
}

/// A separator's name in messages.
fn name_of(separator: u8) -> String {
    match separator {
        b'\t' => "tab".into(),
        b',' => "comma".into(),
        b'|' => "pipe".into(),
        b';' => "semicolon".into(),
        other => format!("'{}'", char::from(other)),
    }
}

fn sample(row: &Row, header: &Header, options: &CsvOptions) -> Result<Sample, SkipKind> {
    let image = std::str::from_utf8(&row.fields[header.image_at])
        .ok()
        .filter(|f| !f.is_empty())
        .ok_or(SkipKind::MissingImage)?;
    let caption = std::str::from_utf8(&row.fields[header.caption_at])
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
            let ends = match self.rest[0] {
                b'\n' => true,
                _ => !rest.starts_with(b"\n"),
            };
            self.line += usize::from(ends);
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
                .position(|&b| b == self.separator || matches!(b, b'\n' | b'\r'))
                .unwrap_or(self.rest.len());
            field.extend_from_slice(&self.rest[..end]);
            let more = self.rest.get(end) == Some(&self.separator);
            let (ending, lines) = match &self.rest[end..] {
                [] => (0, 0),
                [b'\r', b'\n', ..] => (2, 1),
                _ => (1, usize::from(!more)),
            };
            self.line += lines;
            self.rest = &self.rest[end + ending..];
            fields.push(field);
            if !more {
                return Some(Ok(Row { line, fields }));
            }
        }
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
