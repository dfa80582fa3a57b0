//! Every shader in every variant, without an adapter.

use super::super::pipelines::shader;
use super::super::source;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Of every kernel of every module.
fn all() -> Vec<(&'static str, String)> {
    let of = |module| {
        source::entries(module)
            .into_iter()
            .map(move |entry| (module, entry))
    };
    source::modules().flat_map(of).collect()
}

/// What naga says against a kernel.
fn complaint(module: &str, entry: &str, lanes: u32, immediates: usize) -> Option<String> {
    let instance = match source::instance(module, entry, lanes) {
        Ok(Some(instance)) => instance,
        other => return Some(format!("{other:?}")),
    };
    let shader = match shader(&instance, immediates) {
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
    let variants = [(0, 128), (0, 0), (8, 128), (16, 128), (32, 128), (64, 128)];
    let mut complaints = Vec::new();
    for (module, entry) in &kernels {
        let found = |(lanes, immediates)| complaint(module, entry, lanes, immediates);
        if let Some(complaint) = variants.into_iter().find_map(found) {
            complaints.push(format!("{module} {entry}: {complaint}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
