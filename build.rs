//! Lists the kernels' sources, so that a new file in `cuda/` needs no entry elsewhere.

use std::fmt::Write;
use std::path::Path;
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

fn main() {
    println!("cargo::rerun-if-changed=cuda");
    let root = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let cuda = Path::new(&root).join("cuda");
    let text = |file: &str| format!("include_str!({:?})", cuda.join(file));
    let mut list = String::from("pub(super) const MODULES: &[Module] = &[\n");
    for name in names(&cuda, "cu") {
        let source = text(&format!("{name}.cu"));
        writeln!(list, "Module {{ name: {name:?}, source: {source} }},").expect("to a string");
    }
    list += "];\npub(super) const HEADERS: &[(&str, &str)] = &[\n";
    for name in names(&cuda, "cuh") {
        let file = format!("{name}.cuh");
        writeln!(list, "({file:?}, {}),", text(&file)).expect("to a string");
    }
    list += "];\n";
    let out = env::var("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&out).join("cuda_sources.rs"), list).expect("the list is written");
}
