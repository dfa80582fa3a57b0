//! HTML character references, as Python's `html.unescape` and ftfy decode them.

use std::borrow::Cow;

use html_escape::NAMED_ENTITIES;

/// The names that HTML accepts without a closing semicolon, sorted.
const LEGACY: [&str; 106] = [
    "AElig", "AMP", "Aacute", "Acirc", "Agrave", "Aring", "Atilde", "Auml", "COPY", "Ccedil",
    "ETH", "Eacute", "Ecirc", "Egrave", "Euml", "GT", "Iacute", "Icirc", "Igrave", "Iuml", "LT",
    "Ntilde", "Oacute", "Ocirc", "Ograve", "Oslash", "Otilde", "Ouml", "QUOT", "REG", "THORN",
    "Uacute", "Ucirc", "Ugrave", "Uuml", "Yacute", "aacute", "acirc", "acute", "aelig", "agrave",
    "amp", "aring", "atilde", "auml", "brvbar", "ccedil", "cedil", "cent", "copy", "curren", "deg",
    "divide", "eacute", "ecirc", "egrave", "eth", "euml", "frac12", "frac14", "frac34", "gt",
    "iacute", "icirc", "iexcl", "igrave", "iquest", "iuml", "laquo", "lt", "macr", "micro",
    "middot", "nbsp", "not", "ntilde", "oacute", "ocirc", "ograve", "ordf", "ordm", "oslash",
    "otilde", "ouml", "para", "plusmn", "pound", "quot", "raquo", "reg", "sect", "shy", "sup1",
    "sup2", "sup3", "szlig", "thorn", "times", "uacute", "ucirc", "ugrave", "uml", "uuml",
    "yacute", "yen", "yuml",
];

/// The names that stand for two characters, under the second of them, as HTML's table of named character references
/// has them; [`NAMED_ENTITIES`] has the first alone.
const SECOND: [(char, &str); 8] = [
    (
        '\u{338}',
        "NotEqualTilde NotGreaterFullEqual NotGreaterGreater NotGreaterSlantEqual NotHumpDownHump \
         NotHumpEqual NotLeftTriangleBar NotLessLess NotLessSlantEqual NotNestedGreaterGreater \
         NotNestedLessLess NotPrecedesEqual NotRightTriangleBar NotSquareSubset NotSquareSuperset \
         NotSucceedsEqual NotSucceedsTilde nGg nGtv nLl nLtv napE napid nbump nbumpe ncongdot nedot nesim \
         ngE ngeqq ngeqslant nges nlE nleqq nleqslant nles notinE notindot npart npre npreceq nrarrc \
         nrarrw nsce nsubE nsubseteqq nsucceq nsupE nsupseteqq",
    ),
    (
        '\u{20d2}',
        "NotSubset NotSuperset nGt nLt nang nsubset nsupset nvap nvge nvgt nvle nvlt nvltrie nvrtrie \
         nvsim vnsub vnsup",
    ),
    ('\u{200a}', "ThickSpace"),
    ('\u{333}', "acE"),
    ('\u{20e5}', "bne bnequiv nparsl"),
    (
        '\u{fe00}',
        "caps cups gesl gvertneqq gvnE lates lesg lvertneqq lvnE smtes sqcaps sqcups varsubsetneq \
         varsubsetneqq varsupsetneq varsupsetneqq vsubnE vsubne vsupnE vsupne",
    ),
    ('\u{6a}', "fjlig"),
    ('\u{331}', "race"),
];

/// Which references count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Only those closed by a semicolon, and capitals of names that exist in lower case
    /// (`&EACUTE;`): ftfy's rule for text that may not be HTML at all.
    Closed,
    /// All that a browser accepts, `&amp` and the prefix in `&ampere` included.
    Lenient,
}

/// Replaces the character references of `text`, one level deep.
pub(super) fn unescape(text: &str, rule: Rule) -> Cow<'_, str> {
    let Some(first) = text.find('&') else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let body = &rest[at + 1..];
        let taken = if body.starts_with('#') {
            numeric(body, rule, &mut out)
        } else {
            named(body, rule, &mut out)
        };
        match taken {
            Some(n) => rest = &body[n..],
            None => {
                out.push('&');
                rest = body;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The characters that a name stands for.
fn lookup(name: &str) -> Option<String> {
    let place = NAMED_ENTITIES.binary_search_by(|(n, _)| (*n).cmp(name.as_bytes()));
    let mut found = NAMED_ENTITIES[place.ok()?].1.to_owned();
    let second = SECOND
        .iter()
        .find(|(_, names)| names.split_ascii_whitespace().any(|n| n == name));
    found.extend(second.map(|(c, _)| c));
    Some(found)
}

/// Decodes `name;` at the start of `body`; returns how many bytes it took.
fn named(body: &str, rule: Rule, out: &mut String) -> Option<usize> {
    match rule {
        Rule::Closed => {
            let end = body.bytes().take(25).position(|b| b == b';')?;
            let name = &body[..end];
            if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return None;
            }
            if let Some(value) = lookup(name) {
                out.push_str(&value);
            } else {
                // Capitals that would already mean something ("&LTE;" begins with "&LT") stay.
                let shadowed = LEGACY.iter().any(|l| name.starts_with(l));
                if shadowed || name.bytes().any(|b| b.is_ascii_lowercase()) {
                    return None;
                }
                out.push_str(&lookup(&name.to_ascii_lowercase())?.to_uppercase());
            }
            Some(end + 1)
        }
        Rule::Lenient => {
            let name = body
                .char_indices()
                .take(32)
                .take_while(|(_, c)| {
                    !matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';')
                })
                .last()
                .map(|(i, c)| &body[..i + c.len_utf8()])?;
            if body[name.len()..].starts_with(';')
                && let Some(value) = lookup(name)
            {
                out.push_str(&value);
                return Some(name.len() + 1);
            }
            // The longest name that needs no semicolon.
            let prefix = LEGACY
                .iter()
                .filter(|l| name.starts_with(**l))
                .max_by_key(|l| l.len())?;
            out.push_str(&lookup(prefix)?);
            Some(prefix.len())
        }
    }
}

/// Decodes `#123;` or `#x1F;` at the start of `body`; returns how many bytes it took.
fn numeric(body: &str, rule: Rule, out: &mut String) -> Option<usize> {
    let hex = matches!(body.as_bytes().get(1), Some(b'x' | b'X'));
    let (start, radix) = if hex { (2, 16) } else { (1, 10) };
    let digits = body[start..]
        .bytes()
        .take_while(|b| (*b as char).is_digit(radix))
        .count();
    if digits == 0 {
        return None;
    }
    let mut end = start + digits;
    let closed = body[end..].starts_with(';');
    if rule == Rule::Closed && (!closed || end > 25) {
        return None;
    }
    // More digits than fit are a number beyond Unicode, whatever they are.
    let code = u32::from_str_radix(&body[start..end], radix).unwrap_or(u32::MAX);
    end += usize::from(closed);
    if let Some(c) = reference(code) {
        out.push(c);
    }
    Some(end)
}

/// HTML's meaning of a character number: Windows-1252 for 0x80 to 0x9F, nothing for the
/// non-characters, U+FFFD for other numbers without a character.
fn reference(code: u32) -> Option<char> {
    match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => Some(windows_1252(code as u8)),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code <= 0x10_ffff && code & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

/// The characters of Windows-1252 from 0x80 to 0x9F; the five bytes without one stay controls.
const HIGH: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The character of a byte in Windows-1252.
pub(super) fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// The byte of a non-ASCII character in Windows-1252 or Latin-1, whichever has it.
pub(super) fn windows_1252_byte(c: char) -> Option<u8> {
    match c {
        '\u{80}'..='\u{ff}' => Some(c as u8),
        _ => HIGH.iter().position(|&h| h == c).map(|i| 0x80 + i as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_names_are_sorted_and_known() {
        assert!(LEGACY.is_sorted());
        assert!(LEGACY.iter().all(|n| lookup(n).is_some()));
    }

    /// Python's `html.entities.html5` has 93 names of two characters, none without a semicolon.
    #[test]
    fn names_of_two_characters_are_whole() {
        let names: Vec<&str> = SECOND
            .iter()
            .flat_map(|(_, n)| n.split_ascii_whitespace())
            .collect();
        assert_eq!(names.len(), 93);
        for name in names {
            assert_eq!(lookup(name).unwrap().chars().count(), 2, "{name}");
            assert!(!LEGACY.contains(&name));
        }
    }

    #[test]
    fn references_decode_as_python_does() {
        for (text, closed, lenient) in [
            ("a &amp; b", "a & b", "a & b"),
            ("a &amp b", "a &amp b", "a & b"),
            ("&notit; &notin;", "&notit; ∉", "¬it; ∉"),
            ("&#233;&#xE9;&#X2019", "éé&#X2019", "éé’"),
            (
                "&#128;&#0;&#1;&#xD800;&#99999999999;",
                "€\u{fffd}\u{fffd}\u{fffd}",
                "€\u{fffd}\u{fffd}\u{fffd}",
            ),
            (
                "P&EACUTE;REZ &Nope; &; &# &#x;",
                "PÉREZ &Nope; &; &# &#x;",
                "P&EACUTE;REZ &Nope; &; &# &#x;",
            ),
            (
                "&NotEqualTilde;&bne;",
                "\u{2242}\u{338}=\u{20e5}",
                "\u{2242}\u{338}=\u{20e5}",
            ),
            ("&fjlig; &FJLIG; &acE", "fj FJ &acE", "fj &FJLIG; &acE"),
            ("&amp;amp;", "&amp;", "&amp;"),
            ("&é &", "&é &", "&é &"),
        ] {
            assert_eq!(unescape(text, Rule::Closed), closed, "{text}");
            assert_eq!(unescape(text, Rule::Lenient), lenient, "{text}");
        }
    }
}
