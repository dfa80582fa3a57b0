//! Cutting a cleaned text into words, as the reference's regular expression does:
//!
//! ```text
//! <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
//! ```
//!
//! by hand, since a regular expression would take most of the tokenizer's time.

use unicode_normalization::char::is_combining_mark;

pub(super) const START: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

/// Fixed spellings, tried in this order before anything else. The long s is there because the
/// reference matches without regard to case, and U+017F folds to s.
const FIXED: [&str; 10] = [
    START, END, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'\u{17f}",
];

/// The words of a text, in order; whitespace separates and is dropped.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(separates);
        let first = rest.chars().next()?;
        let len = if matches!(first, '<' | '\'')
            && let Some(fixed) = FIXED.iter().find(|f| rest.starts_with(**f))
        {
            fixed.len()
        } else if is_letter(first) {
            run(rest, is_letter)
        } else if first.is_numeric() {
            first.len_utf8()
        } else {
            run(rest, |c| !separates(c) && !is_letter(c) && !c.is_numeric())
        };
        let (word, tail) = rest.split_at(len);
        rest = tail;
        Some(word)
    })
}

/// Whitespace, and the iota below. That is no letter, but without regard to case the reference takes it for the
/// letter iota where it lists what is not one: so no part of its expression matches it.
fn separates(c: char) -> bool {
    c.is_whitespace() || c == '\u{345}'
}

/// Length in bytes of the characters at the start of `text` that satisfy `is`.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

/// Unicode's general category L. The standard library knows the wider property Alphabetic, which
/// adds letter numbers, some combining marks and the circled and squared letters.
fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    c.is_alphabetic()
        && !c.is_numeric()
        && !is_combining_mark(c)
        && !matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f149}'
            | '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables come from different Unicode versions, which disagree on what was assigned last.
    #[test]
    fn classes_are_those_of_the_regular_expression() {
        for (class, ours) in [
            (r"\p{L}", is_letter as fn(char) -> bool),
            (r"\p{N}", char::is_numeric),
            (r"\s", char::is_whitespace),
        ] {
            // What either table has not heard of yet does not count.
            let theirs = fancy_regex::Regex::new(&format!("^({class})|^\\p{{Cn}}")).unwrap();
            let mut buffer = [0; 4];
            for c in '\0'..='\u{10ffff}' {
                match theirs.captures(c.encode_utf8(&mut buffer)).unwrap() {
                    Some(found) => assert!(found.get(1).is_none() || ours(c), "{c:?} {class}"),
                    None => assert!(!ours(c), "{c:?} not {class}"),
                }
            }
        }
    }

    #[test]
    fn splits() {
        let cut = |t| words(t).collect::<Vec<_>>();
        assert_eq!(cut(""), [""; 0]);
        assert_eq!(cut("a 12b"), ["a", "1", "2", "b"]);
        assert_eq!(
            cut("it's we'll!' don't 'x"),
            ["it", "'s", "we", "'ll", "!'", "don", "'t", "'", "x"]
        );
        assert_eq!(cut("x\u{345}y !\u{345}"), ["x", "y", "!"]);
        assert_eq!(
            cut("<|endoftext|>!<|endoftext|> <|start"),
            ["<|endoftext|>", "!<|", "endoftext", "|>", "<|", "start"]
        );
    }
}
