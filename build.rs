//! Lists the kernels' sources, so that a new file in `cuda/` or `shaders/` needs no entry elsewhere.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The names of the files in `folder` that end in `.{end}`, sorted.
fn names(folder: &Path, end: &str) -> Vec<String> {
    let files = fs::read_dir(folder).expect("the folder of the kernels");
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(end)?.strip_suffix('.')?.to_owned()))
        .collect();
    names.sort();
    names
}

/// A list of what `line` says of each file in `folder` that ends in `.{end}`: of its name and of its text.
fn list(folder: &Path, end: &str, head: &str, line: impl Fn(&str, &str) -> String) -> String {
    let mut list = format!("{head} = &[\n");
    for name in names(folder, end) {
        let text = format!("include_str!({:?})", folder.join(format!("{name}.{end}")));
        writeln!(list, "{},", line(&name, &text)).expect("to a string");
    }
    list + "];\n"
}

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    let write =
        |file: &str, text: String| fs::write(out.join(file), text).expect("the list is written");
    for folder in ["cuda", "shaders"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let cuda = root.join("cuda");
    let module = |name: &str, text: &str| format!("Module {{ name: {name:?}, source: {text} }}");
    let modules = list(&cuda, "cu", "pub(super) const MODULES: &[Module]", module);
    let header = |name: &str, text: &str| format!("(\"{name}.cuh\", {text})");
    let headers = list(
        &cuda,
        "cuh",
        "pub(super) const HEADERS: &[(&str, &str)]",
        header,
    );
    write("cuda_sources.rs", modules + &headers);
    let shader = |name: &str, text: &str| format!("({name:?}, {text})");
    let head = "pub(super) const SHADERS: &[(&str, &str)]";
    write(
        "shader_sources.rs",
        list(&root.join("shaders"), "wgsl", head, shader),
    );
}
