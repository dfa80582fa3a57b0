//! A kernel's struct that differs from the one that is launched does not compile.

use super::*;

/// Compiles `exp.cu` with `from` replaced by `to`.
fn compile(from: &str, to: &str) -> std::result::Result<(), String> {
    let module = modules::module("exp").unwrap();
    assert!(module.source.contains(from), "no {from:?}");
    let source = module.source.replace(from, to).leak();
    let name = module.name;
    let built = library::file(&Module { name, source });
    built.map(drop).map_err(|e| e.to_string())
}

#[test]
fn a_struct_that_differs_in_one_field_does_not_compile() {
    device(0, 1);
    assert_eq!(compile("", ""), Ok(()));
    for (from, to, says) in [
        // Swapped, renamed, of another type, of another size, one more, one less.
        (
            "  const float* dy;\n  const float* y;\n  float* dx;",
            "  const float* y;\n  const float* dy;\n  float* dx;",
            "ExpBackwardArguments::dy is launched at byte 0",
        ),
        ("padding;", "unused;", "has no member named"),
        (
            "int padding;",
            "float padding;",
            "padding is launched as int",
        ),
        ("int add;", "unsigned add;", "add is launched as int"),
        ("int add;", "long long add;", "add is launched as int"),
        ("float* dx;", "float dx;", "dx is launched as Address"),
        (
            "int padding;",
            "int padding; int more;",
            "launched with 40 bytes",
        ),
        (
            "int padding;",
            "short padding, more;",
            "padding is launched as int",
        ),
        ("int padding;", "", "has no member named"),
    ] {
        let error = compile(from, to).unwrap_err();
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
}
