//! A kernel's WGSL as a device gets it, and what is bound to it.

use super::arguments::Plan;
use super::source::{self, Instance, Result};
use super::windows;
use std::fmt::Write;

/// A kernel's text in WGSL and how it takes its numbers.
#[derive(Clone, Debug)]
pub(super) struct Shader {
    pub wgsl: String,
    pub plan: Plan,
    /// Whether numbers go into immediates, or into a uniform.
    pub immediate: bool,
}

/// A tensor that a kernel reads or writes.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub name: String,
    /// Where its address stands in the kernel's struct.
    pub at: usize,
    /// Whether the text reads how many bytes into its binding it begins.
    pub reads_offset: bool,
}

/// The tensors that a kernel binds.
///
/// # Errors
/// If one is no address of its struct.
pub(super) fn tensors(instance: &Instance, plan: &Plan) -> Result<Vec<Bound>> {
    let of = |(name, _): &(String, String)| {
        let Some(at) = plan.address(name) else {
            return Err(format!("{} has no address {name}", instance.arguments));
        };
        let reads = |text: &String| mentions(text, &format!("a.{name}"));
        Ok(Bound {
            name: name.clone(),
            at,
            reads_offset: reads(&instance.library) || reads(&instance.body),
        })
    };
    instance.buffers.iter().map(of).collect()
}

/// The kernel's WGSL for a device whose immediates have `immediates` bytes, and tensors bound in so many windows each.
///
/// # Errors
/// What its text is wrong in.
pub(super) fn shader(instance: &Instance, immediates: usize, split: &[u32]) -> Result<Shader> {
    let Instance {
        module,
        arguments,
        threads,
        buffers,
        library,
        body,
        values,
        ..
    } = instance;
    let plan = Plan::new(module, arguments)?;
    let immediate = plan.size() <= immediates;
    let mut wgsl = String::new();
    let binds_f16 = buffers.iter().any(|(_, of)| of.contains("f16"));
    if binds_f16 || values.values().any(|value| value == "f16") {
        wgsl += "enable f16;\n";
    }
    if body.contains("coop_mat") {
        wgsl += "enable wgpu_cooperative_matrix;\n";
    }
    wgsl += &plan.declaration();
    wgsl += match immediate {
        true => "var<immediate> a: Numbers;\n",
        false => "@group(1) @binding(0) var<uniform> a: Numbers;\n",
    };
    let (mut binding, mut of_windows) = (0, Vec::new());
    for ((name, of), &windows) in buffers.iter().zip(split) {
        wgsl += &windows::declaration(name, of, windows, binding);
        binding += windows;
        if windows > 1 {
            of_windows.push(name.as_str());
        }
    }
    let text = |text: &str| match of_windows.is_empty() {
        true => Ok(text.to_owned()),
        false => windows::through_calls(text, &of_windows),
    };
    wgsl += &text(library)?;
    let subgroup = match body.contains("lane_of") {
        true => {
            ", @builtin(subgroup_invocation_id) lane_of: u32, @builtin(subgroup_size) lanes_of: u32"
        }
        false => "",
    };
    // A kernel with subgroups relies on which invocations are neighbours.
    let order = match source::reversed()? && values.get(&'L').is_none_or(|lanes| lanes == "0") {
        true => "  let thread = (INVOCATIONS - 1u) - invocation;\n",
        false => "  let thread = invocation;\n",
    };
    let body = text(body)?;
    write!(
        wgsl,
        "const INVOCATIONS = u32({threads});
@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32{subgroup}) {{
{order}  let grid = vec2<u32>(a.grid_x, a.grid_y);
  let number = a.first + workgroup.y * a.fold + workgroup.x;
  if (number >= a.last) {{ return; }}
  let block = vec3<u32>(number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
{body}}}
"
    )
    .expect("to a string");
    Ok(Shader {
        wgsl,
        plan,
        immediate,
    })
}

/// Whether `name` stands in `text` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let next = text[at + name.len()..].chars().next();
        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}
