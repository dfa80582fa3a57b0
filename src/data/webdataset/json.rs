//! JSON as Python's `json.loads` reads it, by which most shards were written.
//!
//! Beyond the standard that is `NaN`, `Infinity` and numbers too large for a double (here null: no caption is a
//! number), escapes of half a surrogate pair (here U+FFFD, as ftfy makes them), a byte-order mark, and UTF-16.

use serde_json::Value;

/// The value of `bytes`, and whether a strict reader would have refused it.
///
/// # Errors
/// What is wrong and where.
pub(super) fn parse(bytes: &[u8]) -> Result<(Value, bool), String> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok((value, false)),
        Err(strict) => {
            let text = text(bytes).ok_or_else(|| strict.to_string())?;
            let value = serde_json::from_str(&standard(&text)).map_err(|e| e.to_string())?;
            Ok((value, true))
        }
    }
}

/// The text of UTF-8 or UTF-16, a byte-order mark taken off.
fn text(bytes: &[u8]) -> Option<String> {
    if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        return String::from_utf8(rest.to_vec()).ok();
    }
    let units = |little: bool, bytes: &[u8]| -> Option<String> {
        let unit = |b: &[u8]| {
            let pair = [b[0], b[1]];
            if little {
                u16::from_le_bytes(pair)
            } else {
                u16::from_be_bytes(pair)
            }
        };
        let even = bytes.len().is_multiple_of(2);
        let units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
        even.then(|| String::from_utf16_lossy(&units))
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => units(true, rest),
        [0xfe, 0xff, rest @ ..] => units(false, rest),
        // JSON begins with an ASCII character.
        [first, 0, ..] if *first != 0 => units(true, bytes),
        [0, first, ..] if *first != 0 => units(false, bytes),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

/// `text` with what only Python reads replaced; everything else stays, errors included.
fn standard(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' => string(rest, &mut out),
            '-' | '0'..='9' | 'N' | 'I' => number(rest, &mut out),
            _ => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Copies the string literal at the start of `text`; returns its length.
fn string(text: &str, out: &mut String) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    let mut copied = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                break;
            }
            b'\\' => {
                let half = unit(text, at);
                let whole = match half {
                    Some(0xd800..=0xdbff) => {
                        matches!(unit(text, at + 6), Some(0xdc00..=0xdfff))
                    }
                    Some(0xdc00..=0xdfff) => false,
                    _ => true,
                };
                let length = match (half, whole) {
                    (Some(0xd800..=0xdbff), true) => 12,
                    (Some(_), _) => 6,
                    (None, _) => 2,
                };
                if !whole {
                    out.push_str(&text[copied..at]);
                    out.push_str("\\ufffd");
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    // An escape at the very end may reach beyond it.
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    out.push_str(&text[copied.min(end)..end]);
    end
}

/// The code unit of the escape `\uXXXX` at `at`.
fn unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| hex)
}

/// Copies the number or the word at the start of `text`, or null in its place; returns its length.
fn number(text: &str, out: &mut String) -> usize {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let end = text.find(|c| !word(c)).unwrap_or(text.len());
    let found = &text[..end];
    let digits = found.strip_prefix('-').unwrap_or(found);
    let too_large = digits.starts_with(|c: char| c.is_ascii_digit())
        && found.parse::<f64>().is_ok_and(f64::is_infinite);
    if matches!(found, "NaN" | "Infinity" | "-Infinity") || too_large {
        out.push_str("null");
    } else {
        out.push_str(found);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(bytes: &[u8]) -> Option<(String, bool)> {
        let (value, lenient) = parse(bytes).ok()?;
        Some((value["caption"].as_str()?.to_owned(), lenient))
    }

    /// What `json.loads` of Python 3.11 makes of each; half a surrogate then passes through ftfy 6.3.1.
    #[test]
    fn what_python_reads_is_read() {
        for (text, read) in [
            (&br#"{"caption": "a", "x": 1e3}"#[..], "a"),
            (
                br#"{"x": NaN, "caption": "NaN -Infinity"}"#,
                "NaN -Infinity",
            ),
            (br#"{"x": [Infinity, -Infinity], "caption": "b"}"#, "b"),
            (br#"{"x": 1e400, "y": -1E+999, "caption": "c"}"#, "c"),
            (br#"{"caption": "d\ud83d!"}"#, "d\u{fffd}!"),
            (br#"{"caption": "e\udc36\\ud83d"}"#, "e\u{fffd}\\ud83d"),
            (br#"{"caption": "\ud83d\ude00\ud83d\u0041"}"#, "😀\u{fffd}A"),
            (b"\xef\xbb\xbf{\"caption\": \"f\"}", "f"),
            (
                b"\xff\xfe{\0\"\0c\0a\0p\0t\0i\0o\0n\0\"\0:\0\"\0g\0\"\0}\0",
                "g",
            ),
            (b"\0{\0\"\0c\0a\0p\0t\0i\0o\0n\0\"\0:\0\"\0h\0\"\0}", "h"),
        ] {
            let (found, lenient) = caption(text).unwrap();
            assert_eq!(found, read);
            assert_eq!(lenient, serde_json::from_slice::<Value>(text).is_err());
        }
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            &b"{"[..],
            b"",
            br#"{"caption": 'a'}"#,
            br#"{"caption": "a",}"#,
            br#"{"caption": "a"} x"#,
            br#"{"caption": nan}"#,
            br#"{"caption": "a", "x": NaNs}"#,
            br#"{"caption": "a", "x": Infinity1}"#,
            br#"{"caption": "a\"#,
            br#"{"caption": "\ud8"#,
            "{\"caption\": \"\\ü".as_bytes(),
            b"{\"caption\": \"\xff\"}",
            b"{\"caption\": \"a\nb\"}",
        ] {
            assert!(parse(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
    }
}
