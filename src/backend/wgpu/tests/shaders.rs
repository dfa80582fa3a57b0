//! Every shader in every variant, without an adapter.

use super::super::shader::shader;
use super::super::source;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::collections::BTreeSet;
use std::path::Path;

/// Of every kernel of every module.
fn all() -> Vec<(&'static str, String)> {
    let of = |module| {
        source::entries(module)
            .into_iter()
            .map(move |entry| (module, entry))
    };
    source::modules().flat_map(of).collect()
}

/// Products by cooperative matrices need subgroups, and tensors in one piece.
const COOPERATIVE: &str = "cooperative";

/// What naga says against a kernel whose tensors each lie in so many windows.
fn complaint(
    module: &str,
    entry: &str,
    (size, immediates, count, on_processor): (u32, usize, u32, bool),
) -> Option<String> {
    if module == COOPERATIVE && (size == 0 || count > 1) {
        return None;
    }
    let lanes = source::Lanes { size, on_processor };
    let instance = match source::instance(module, entry, lanes) {
        Ok(Some(instance)) => instance,
        other => return Some(format!("{other:?}")),
    };
    let windows = vec![count; instance.buffers.len()];
    let shader = match shader(&instance, immediates, &windows) {
        Ok(shader) => shader,
        Err(e) => return Some(e),
    };
    let parsed = match naga::front::wgsl::parse_str(&shader.wgsl) {
        Ok(parsed) => parsed,
        Err(e) => return Some(e.emit_to_string(&shader.wgsl)),
    };
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    let error = validator.validate(&parsed).err()?;
    Some(error.emit_to_string(&shader.wgsl))
}

#[test]
fn naga_accepts_every_shader_in_every_variant() {
    let kernels = all();
    assert!(!kernels.is_empty());
    let sizes = [(0, 128), (0, 0), (8, 128), (16, 128), (32, 128), (64, 128)];
    let variants = sizes.map(|(lanes, immediates)| (lanes, immediates, 1, false));
    let variants = variants
        .into_iter()
        .chain([(0, 128, 3, false), (8, 0, 2, true)]);
    let mut complaints = Vec::new();
    for (module, entry) in &kernels {
        let found = |variant| complaint(module, entry, variant);
        if let Some(complaint) = variants.clone().find_map(found) {
            complaints.push(format!("{module} {entry}: {complaint}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The kernels of `cuda/<module>.cu`, those that a macro of the file makes among them, with f16 in place of bf16.
fn of_cuda(text: &str) -> BTreeSet<String> {
    let text = text.replace("\\\n", " ");
    let arguments = |call: &str| -> Vec<String> {
        let inner = call.split_once('(').map_or("", |(_, rest)| rest);
        let inner = inner.split(')').next().unwrap_or_default();
        inner.split(',').map(|a| a.trim().to_owned()).collect()
    };
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("KERNEL(") {
            names.extend(arguments(line).into_iter().next());
        }
        let Some(define) = line.strip_prefix("#define ") else {
            continue;
        };
        let macro_name = define.split('(').next().unwrap_or_default();
        let parameters = arguments(define);
        let calls = text
            .lines()
            .filter(|l| l.starts_with(&format!("{macro_name}(")));
        for call in calls {
            let values = arguments(call);
            for kernel in define.split("KERNEL(").skip(1) {
                let mut name = kernel.split(',').next().unwrap_or_default().to_owned();
                for (parameter, value) in parameters.iter().zip(&values) {
                    name = name.replace(&format!("##{parameter}"), value);
                }
                names.insert(name.replace("##", ""));
            }
        }
    }
    names
        .into_iter()
        .map(|name| name.replace("bf16", "f16"))
        .collect()
}

/// Every kernel of CUDA has its shader, and every shader's kernel one of CUDA, but for products and moves, which are the
/// library's and the driver's there, and for the ceiling's, which benchmarks alone run.
#[test]
fn shaders_and_cuda_have_the_same_kernels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let (mut missing, mut count) = (Vec::new(), 0);
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "cu") {
            continue;
        }
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let cuda = of_cuda(&std::fs::read_to_string(&path).unwrap());
        assert!(!cuda.is_empty(), "{module} has no kernel");
        let shaders: BTreeSet<String> = source::entries(&module).into_iter().collect();
        missing.extend(
            cuda.difference(&shaders)
                .map(|name| format!("shaders/{module}.wgsl lacks {name}")),
        );
        // Of all combinations of two element types CUDA has those that are used: a name without types stands for them.
        let bare = |name: &String| name.replace("_f32", "").replace("_f16", "");
        let known: BTreeSet<String> = cuda.iter().map(bare).collect();
        let more = shaders
            .iter()
            .map(bare)
            .filter(|name| !known.contains(name));
        missing.extend(more.map(|name| format!("cuda/{module}.cu lacks {name}")));
        count += cuda.len();
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(count > 80, "only {count} kernels were found");
    let alone = source::modules().filter(|m| !folder.join(format!("{m}.cu")).exists());
    assert_eq!(
        alone.collect::<Vec<_>>(),
        ["ceiling", COOPERATIVE, "moves", "product"]
    );
}
