//! What happens to a text before it is cut into words: repair, HTML, whitespace, case.
//!
//! The reference runs `ftfy.fix_text`, then `html.unescape` twice, then collapses whitespace and
//! lower-cases. Of ftfy this covers, and repeats until nothing changes as ftfy does: character
//! references, UTF-8 that was read as Windows-1252 or Latin-1, C1 controls that are Windows-1252,
//! Latin ligatures, full- and half-width forms, curly quotes, terminal escapes, invisible control
//! characters, NFC. (Line breaks and surrogates need nothing: whitespace is collapsed, and a Rust
//! string holds no surrogates.)
//!
//! Not covered: text that was read as another code page than those two (Windows-1250, -1251,
//! MacRoman …), mojibake in which bytes are already lost (`â€?`), and ftfy's statistical judgement
//! of what is mojibake, for which [`mojibake`] has a simpler rule of its own.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::html::{Rule, unescape, windows_1252, windows_1252_byte};

/// Rounds of repair before giving up. Text that was encoded wrongly this often is no text, and
/// the bound keeps `&amp;amp;amp;…` from costing its length squared.
const ROUNDS: usize = 12;

/// The text as the reference tokenizer sees it: repaired, unescaped, with single spaces and no
/// space at either end, in lower case.
pub(super) fn clean(text: &str) -> String {
    // Nearly every caption is plain ASCII in which there is nothing to repair.
    if text
        .bytes()
        .all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r') && b != b'&')
    {
        let mut out = collapse(text, |_| false);
        out.make_ascii_lowercase();
        return out;
    }
    let fixed = fix(text);
    let once = unescape(&fixed, Rule::Lenient);
    let twice = unescape(&once, Rule::Lenient);
    // Python counts the four information separators as spaces; Unicode does not.
    collapse(&twice, |c| ('\x1c'..='\x1f').contains(&c)).to_lowercase()
}

fn collapse(text: &str, also_space: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text
        .split(|c: char| c.is_whitespace() || also_space(c))
        .filter(|w| !w.is_empty())
    {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

fn fix(text: &str) -> String {
    // A text with a tag in it may be meant as HTML source; ftfy then leaves its references alone.
    let html = !text.contains('<');
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        let unescaped = match html {
            true => unescape(&text, Rule::Closed),
            false => Cow::Borrowed(text.as_str()),
        };
        let decoded = match unescaped.is_ascii() {
            true => unescaped,
            false => Cow::Owned(mojibake(&unescaped)),
        };
        let next = characters(&decoded);
        let next = match is_nfc_quick(next.chars()) {
            IsNormalized::Yes => next,
            _ => next.nfc().collect(),
        };
        if next == text {
            break;
        }
        text = next;
    }
    text
}

/// Undoes UTF-8 that was read as Windows-1252: `cafÃ©` becomes `café`, `âœ”` becomes `✔`.
///
/// Runs of characters whose bytes are well-formed UTF-8 are replaced. Three- and four-byte
/// sequences hardly ever arise otherwise; the two-byte ones can (`CAFÉ”`), so they need a sign.
fn mojibake(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let byte = |i: usize| chars.get(i).copied().and_then(windows_1252_byte);
    // The character that begins at `i`, if its bytes are well-formed, and how many they are.
    let decode = |i: usize| -> Option<(char, usize)> {
        let len = match byte(i)? {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let mut bytes = [0u8; 4];
        for (k, slot) in bytes.iter_mut().enumerate().take(len) {
            *slot = byte(i + k)?;
        }
        let c = std::str::from_utf8(&bytes[..len]).ok()?.chars().next()?;
        Some((c, len))
    };
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    // Whether the last character written was itself decoded: mojibake comes in runs.
    let mut in_run = false;
    while i < chars.len() {
        if let Some((c, len)) = decode(i)
            && (len > 2 || in_run || plausible_pair(&chars, i) || decode(i + len).is_some())
        {
            out.push(c);
            i += len;
            in_run = true;
        } else {
            out.push(chars[i]);
            i += 1;
            in_run = false;
        }
    }
    out
}

/// Whether the two characters at `i`, which could be one in UTF-8, look like it.
fn plausible_pair(chars: &[char], i: usize) -> bool {
    let after_capital = i > 0 && chars[i - 1].is_uppercase();
    let punctuation = matches!(chars[i + 1], '‘' | '’' | '“' | '”' | '–' | '—' | '…');
    let touches_letter = (i > 0 && chars[i - 1].is_alphabetic())
        || chars.get(i + 2).is_some_and(|c| c.is_alphabetic());
    match chars[i] {
        // The Latin-1 block: by far the most frequent, and `Â`, `Ã` before a symbol are not words.
        'Â' | 'Ã' => !(after_capital && punctuation),
        // Latin letters of central and northern Europe.
        'Ä' | 'Å' => touches_letter && !after_capital && !punctuation,
        _ => false,
    }
}

/// The repairs that look at one character at a time.
fn characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.peek() == Some(&'[') => {
                // A terminal escape: parameters, then one letter. Anything else is dropped as far
                // as the escape character only.
                let mut ahead = chars.clone();
                ahead.next();
                while ahead.next_if(|c| c.is_ascii_digit() || *c == ';').is_some() {}
                if ahead.next_if(char::is_ascii_alphabetic).is_some() {
                    chars = ahead;
                }
            }
            '\u{80}'..='\u{9f}' => out.push(windows_1252(c as u8)),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            // ftfy keeps the long s of this ligature; NFKC would not.
            '\u{fb05}' => out.push_str("\u{17f}t"),
            '\u{132}'
            | '\u{133}'
            | '\u{149}'
            | '\u{1c4}'..='\u{1cc}'
            | '\u{1f1}'..='\u{1f3}'
            | '\u{fb00}'..='\u{fb04}'
            | '\u{fb06}'
            | '\u{3000}'
            | '\u{ff01}'..='\u{ffef}' => {
                out.extend(std::iter::once(c).nfkc());
            }
            '\0'..='\x08'
            | '\x0b'
            | '\x0e'..='\x1f'
            | '\x7f'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}' => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs() {
        for (text, cleaned) in [
            ("", ""),
            (" \t\n ", ""),
            ("A\u{b}B\u{c} C", "ab c"),
            ("mojibake âœ” cafÃ©", "mojibake ✔ café"),
            ("itâ€™s naÃ¯ve Â£5", "it's naïve £5"),
            ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "привет"),
            ("Å koda CAFÉ” “CAFÉ”", "å koda café\" \"café\""),
            ("voilÃ\u{a0} !", "voilà !"),
            ("ﬁsh ＦＵＬＬ\u{3000}width", "fish full width"),
            ("\u{1b}[31mred\u{1b}[0m\u{feff}", "red"),
            ("\u{fb05}\u{fb06} \u{fb00}", "\u{17f}tst ff"),
            ("e\u{301}", "é"),
            ("caf&amp;eacute; &lt;b&gt; &amp;amp;lt;", "café <b> <"),
            ("<b> R&ampD &amp;amp;eacute;", "<b> r&d &eacute;"),
        ] {
            assert_eq!(clean(text), cleaned, "{text:?}");
        }
    }

    #[test]
    fn nested_references_cost_little() {
        let hostile = format!("&{}lt;", "amp;".repeat(100_000));
        assert!(!clean(&hostile).is_empty());
    }
}
