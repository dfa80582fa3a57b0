//! Tensors that are larger than a binding of the adapter: bound as several windows side by side.
//!
//! WGSL knows arrays of one binding only, so an instance of a kernel for such a tensor declares an array a window, and
//! every `name[i]` of its text becomes a call: `name_at(i)` where it is read, `name_put(i, …)` where it is written.
//! Windows but the last have 2ⁿ elements, so that the upper bits of an index name one and the lower ones a place in it;
//! the first one's length tells n. Kernels whose tensors fit pay nothing.

use super::source::Result;
use std::fmt::Write;

/// Bytes of the smallest window: what offsets of bindings are multiples of on every adapter.
const LEAST: u64 = 256;

/// How tensors of a device are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bindings {
    /// Bytes that a binding holds at most.
    pub most: u64,
    /// Whether tensors are split in two where one binding would hold them: for tests.
    pub halves: bool,
}

impl Bindings {
    /// The windows of a tensor of `size` bytes: the offset of each, and its bytes.
    pub fn windows(self, size: u64) -> impl ExactSizeIterator<Item = (u64, u64)> {
        let each = if size > self.most {
            1 << self.most.ilog2()
        } else if self.halves && size > LEAST {
            size.div_ceil(2).next_power_of_two().max(LEAST)
        } else {
            size
        };
        let window = move |i| {
            let offset = u64::from(i) * each;
            (offset, each.min(size - offset))
        };
        (0..size.div_ceil(each) as u32).map(window)
    }
}

/// The declarations of a tensor's `windows`, from `binding` on, and the functions that read and write it.
pub(super) fn declaration(name: &str, array: &str, windows: u32, binding: u32) -> String {
    let mut text = String::new();
    let mut declare = |binding: u32, name: &str| {
        text +=
            &format!("@group(0) @binding({binding}) var<storage, read_write> {name}: {array};\n");
    };
    if windows == 1 {
        declare(binding, name);
        return text;
    }
    for window in 0..windows {
        declare(binding + window, &format!("{name}_{window}"));
    }
    let of = &array["array<".len()..array.len() - 1];
    let cases = |case: &dyn Fn(u32) -> String| -> String {
        let last = windows - 1;
        let each = (0..last).map(|w| format!("    case {w}u: {{ {} }}\n", case(w)));
        each.chain([format!("    default: {{ {} }}\n", case(last))])
            .collect()
    };
    let read = cases(&|w| format!("return {name}_{w}[i & (each - 1u)];"));
    let write = cases(&|w| format!("{name}_{w}[i & (each - 1u)] = v;"));
    let choose =
        format!("  let each = arrayLength(&{name}_0);\n  switch i >> firstTrailingBit(each)");
    text + &format!(
        "fn {name}_at(i: u32) -> {of} {{\n{choose} {{\n{read}  }}\n}}
fn {name}_put(i: u32, v: {of}) {{\n{choose} {{\n{write}  }}\n}}\n"
    )
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The bytes up to the bracket that closes what was opened before `text`, or to a `;` outside all brackets.
fn until(text: &str, end: char) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            _ if c == end && depth == 0 => return Some(at),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `text` with calls in place of its accesses to the tensors `names`.
///
/// # Errors
/// If one is used in another way, such as through a pointer, or hidden by a name that can be indexed.
pub(super) fn through_calls(text: &str, names: &[&str]) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            (rest, before) = (&rest[end..], ' ');
            continue;
        }
        if !is_word(c) {
            out.push(c);
            (rest, before) = (&rest[c.len_utf8()..], c);
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let field = before == '.';
        (rest, before) = (after, 'w');
        if field || !names.contains(&word) {
            out += word;
            continue;
        }
        let Some(inner) = after.strip_prefix('[') else {
            let declared = ["var ", "let ", "&"].iter().any(|d| out.ends_with(d));
            if declared || after.starts_with(": array") || after.starts_with(": vec") {
                return Err(format!(
                    "{word} names a tensor that is split, and something else"
                ));
            }
            // A function's parameter, a number.
            out += word;
            continue;
        };
        let Some(end) = until(inner, ']') else {
            return Err(format!("{word}[ is not closed"));
        };
        let index = through_calls(&inner[..end], names)?;
        rest = &inner[end + 1..];
        let next = rest.trim_start();
        let operator = ["+=", "-=", "*=", "/="]
            .into_iter()
            .find(|o| next.starts_with(o));
        let assigned = match operator {
            Some(operator) => Some(&next[operator.len()..]),
            None => next.strip_prefix('=').filter(|n| !n.starts_with('=')),
        };
        let Some(assigned) = assigned else {
            write!(out, "{word}_at({index})").expect("to a string");
            continue;
        };
        let Some(end) = until(assigned, ';') else {
            return Err(format!("{word}[{index}] is assigned without a `;`"));
        };
        let value = through_calls(assigned[..end].trim(), names)?;
        match operator {
            Some(o) => {
                let o = &o[..1];
                write!(out, "{word}_put({index}, {word}_at({index}) {o} ({value}))")
            }
            None => write!(out, "{word}_put({index}, {value})"),
        }
        .expect("to a string");
        rest = &assigned[end..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_decide_the_windows() {
        let of = |most, halves, size| {
            let windows = Bindings { most, halves }.windows(size);
            windows.collect::<Vec<_>>()
        };
        const M: u64 = 1 << 20;
        assert_eq!(of(3 * M, false, 3 * M), [(0, 3 * M)]);
        let three = [(0, 2 * M), (2 * M, 2 * M), (4 * M, M + 256)];
        assert_eq!(of(3 * M, false, 5 * M + 256), three);
        assert_eq!(of(M, true, 256), [(0, 256)]);
        assert_eq!(of(M, true, 512), [(0, 256), (256, 256)]);
        assert_eq!(of(M, true, 5 << 8), [(0, 1024), (1024, 256)]);
    }

    #[test]
    fn accesses_become_calls() {
        let of = |text| through_calls(text, &["x", "y"]);
        let is = |text, expected: &str| assert_eq!(of(text).unwrap(), expected);
        is("y[i] = a.x + xx[x[i]];", "y_put(i, a.x + xx[x_at(i)]);");
        is(
            "y[x[i] + 1u] += x[(i)] * s; // x",
            "y_put(x_at(i) + 1u, y_at(x_at(i) + 1u) + (x_at((i)) * s)); ",
        );
        is(
            "if (x[0].y == y[1]) { x[2]  *= 2.0; }",
            "if (x_at(0).y == y_at(1)) { x_put(2, x_at(2) * (2.0)); }",
        );
        is(
            "fn f(x: f32) -> f32 { return x; }",
            "fn f(x: f32) -> f32 { return x; }",
        );
        let wrong = [
            "f(&x);",
            "var x: array<f32, 2>;",
            "let x = v;",
            "(x: vec2<f32>)",
            "x[i = 1;",
            "x[i] = 1",
        ];
        for text in wrong {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
