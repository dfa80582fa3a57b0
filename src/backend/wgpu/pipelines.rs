//! Kernels of a device: WGSL assembled, compiled at its first use, and bound to buffers.

use super::NAME;
use super::arguments::{NONE, Plan, Workgroups, address};
use super::memory::{Memory, Range};
use super::pipeline_cache::DiskCache;
use super::source::{self, Instance};
use crate::backend::gpu::device::{Address, Kernel, Launch};
use crate::backend::{Result, device_error};
use ::wgpu::{
    BindGroup, BindGroupEntry, BindGroupLayout, BindingResource, BufferBinding, ComputePipeline,
};
use std::collections::HashMap;
use std::fmt::Write;
use std::num::NonZeroU64;

/// Workgroups in a row of a folded dispatch.
const FOLD: u64 = 65_535;

/// Operations of a dispatch: systems with a desktop end what runs for seconds.
const MOST_WORK: u64 = 20_000_000_000;

/// A kernel's text in WGSL and what is bound to it.
#[derive(Clone, Debug)]
pub(super) struct Shader {
    pub wgsl: String,
    pub arguments: String,
    plan: Plan,
    /// By binding: the address's name, where it stands in the struct, and whether the text reads its offset.
    bound: Vec<(String, usize, bool)>,
    immediate: bool,
}

/// The kernel's WGSL for a device whose immediates have `immediates` bytes.
///
/// # Errors
/// What its text is wrong in.
pub(super) fn shader(instance: &Instance, immediates: usize) -> source::Result<Shader> {
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
    if values.values().any(|value| value == "f16") {
        wgsl += "enable f16;\n";
    }
    wgsl += &plan.declaration();
    wgsl += match immediate {
        true => "var<immediate> a: Numbers;\n",
        false => "@group(1) @binding(0) var<uniform> a: Numbers;\n",
    };
    let mut bound = Vec::new();
    for (binding, (name, of)) in buffers.iter().enumerate() {
        let Some(at) = plan.address(name) else {
            return Err(format!("{arguments} has no address {name}"));
        };
        let read = [library, body]
            .iter()
            .any(|text| mentions(text, &format!("a.{name}")));
        bound.push((name.clone(), at, read));
        writeln!(
            wgsl,
            "@group(0) @binding({binding}) var<storage, read_write> {name}: {of};"
        )
        .expect("to a string");
    }
    wgsl += library;
    let subgroup = match body.contains("lane_of") {
        true => {
            ", @builtin(subgroup_invocation_id) lane_of: u32, @builtin(subgroup_size) lanes_of: u32"
        }
        false => "",
    };
    // A kernel with subgroups relies on which invocations are neighbours.
    let order = match source::reversed() && values.get(&'L').is_none_or(|lanes| lanes == "0") {
        true => "  let thread = (INVOCATIONS - 1u) - invocation;\n",
        false => "  let thread = invocation;\n",
    };
    writeln!(wgsl, "const INVOCATIONS = u32({threads});").expect("to a string");
    write!(
        wgsl,
        "@compute @workgroup_size({threads})
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
        arguments: arguments.clone(),
        plan,
        bound,
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

#[derive(Debug)]
struct Compiled {
    shader: Shader,
    pipeline: ComputePipeline,
    layout: BindGroupLayout,
}

/// What a launch needs: one dispatch, or several where it is too much work for one.
pub(super) struct Dispatches<'a> {
    pub pipeline: &'a ComputePipeline,
    pub buffers: BindGroup,
    /// Whether numbers go into immediates.
    pub immediate: bool,
    /// The numbers of each, and its workgroups in x and y.
    pub parts: Vec<(Vec<u32>, [u32; 2])>,
}

/// A device's kernels.
#[derive(Debug)]
pub(super) struct Pipelines {
    device: ::wgpu::Device,
    immediates: usize,
    lanes: u32,
    compiled: HashMap<Kernel, Compiled>,
    /// By kernel and ranges: addresses recur.
    groups: HashMap<(Kernel, Vec<Range>), BindGroup>,
    /// For numbers that immediates have no room for.
    uniform: BindGroupLayout,
    /// Bound where an address is not there.
    dummy: ::wgpu::Buffer,
    cache: Option<DiskCache>,
    /// Whether something was compiled that the cache on disk may lack.
    fresh: bool,
}

/// Bind groups kept; beyond, all are forgotten.
const MOST_GROUPS: usize = 1 << 14;

fn uniform_layout(device: &::wgpu::Device) -> BindGroupLayout {
    device.create_bind_group_layout(&::wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[::wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: ::wgpu::ShaderStages::COMPUTE,
            ty: ::wgpu::BindingType::Buffer {
                ty: ::wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: None,
            },
            count: None,
        }],
    })
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.as_ref().filter(|_| self.fresh) {
            cache.save();
        }
    }
}

impl Pipelines {
    pub fn new(
        device: &::wgpu::Device,
        (lanes, immediates): (u32, bool),
        cache: Option<DiskCache>,
    ) -> Self {
        Self {
            immediates: match immediates {
                true => device.limits().max_immediate_size as usize,
                false => 0,
            },
            lanes,
            compiled: HashMap::new(),
            groups: HashMap::new(),
            uniform: uniform_layout(device),
            dummy: device.create_buffer(&::wgpu::BufferDescriptor {
                label: None,
                size: 256,
                usage: ::wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
            device: device.clone(),
            cache,
            fresh: false,
        }
    }

    /// Makes kernels without subgroup operations from now on.
    pub fn without_subgroups(&mut self) {
        self.lanes = 0;
        self.compiled.clear();
        self.groups.clear();
    }

    /// How numbers are bound that immediates have no room for.
    pub fn uniform(&self) -> &BindGroupLayout {
        &self.uniform
    }

    /// Forgets what names buffers that may be given back.
    pub fn forget_groups(&mut self) {
        self.groups.clear();
    }

    /// The name of the struct that a kernel takes.
    pub fn takes(&self, kernel: Kernel) -> Result<String> {
        if let Some(compiled) = self.compiled.get(&kernel) {
            return Ok(compiled.shader.arguments.clone());
        }
        match source::instance(kernel.module, kernel.entry, self.lanes) {
            Ok(Some(instance)) => Ok(instance.arguments),
            Ok(None) => device_error(
                NAME,
                format!(
                    "shaders/{}.wgsl has no kernel {}",
                    kernel.module, kernel.entry
                ),
            ),
            Err(error) => device_error(NAME, error),
        }
    }

    fn compile(&self, kernel: Kernel) -> Result<Compiled> {
        let instance = match source::instance(kernel.module, kernel.entry, self.lanes) {
            Ok(Some(instance)) => instance,
            Ok(None) => {
                return device_error(
                    NAME,
                    format!(
                        "shaders/{}.wgsl has no kernel {}",
                        kernel.module, kernel.entry
                    ),
                );
            }
            Err(error) => return device_error(NAME, error),
        };
        let shader = match shader(&instance, self.immediates) {
            Ok(shader) => shader,
            Err(error) => return device_error(NAME, error),
        };
        let scope = self
            .device
            .push_error_scope(::wgpu::ErrorFilter::Validation);
        let descriptor = ::wgpu::ShaderModuleDescriptor {
            label: Some(kernel.entry),
            source: ::wgpu::ShaderSource::Wgsl(shader.wgsl.as_str().into()),
        };
        let checks = match cfg!(debug_assertions) {
            true => ::wgpu::ShaderRuntimeChecks::checked(),
            false => ::wgpu::ShaderRuntimeChecks::unchecked(),
        };
        // SAFETY: the kernels stay within their buffers and their loops end: the tests run them with these checks on.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let entry = |binding| ::wgpu::BindGroupLayoutEntry {
            binding,
            visibility: ::wgpu::ShaderStages::COMPUTE,
            ty: ::wgpu::BindingType::Buffer {
                ty: ::wgpu::BufferBindingType::Storage { read_only: false },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = (0..shader.bound.len() as u32).map(entry).collect();
        let layout = self
            .device
            .create_bind_group_layout(&::wgpu::BindGroupLayoutDescriptor {
                label: Some(kernel.entry),
                entries: &entries,
            });
        let both = [Some(&layout), Some(&self.uniform)];
        let pipeline_layout =
            self.device
                .create_pipeline_layout(&::wgpu::PipelineLayoutDescriptor {
                    label: Some(kernel.entry),
                    bind_group_layouts: if shader.immediate { &both[..1] } else { &both },
                    immediate_size: if shader.immediate {
                        shader.plan.size() as u32
                    } else {
                        0
                    },
                });
        let pipeline = self
            .device
            .create_compute_pipeline(&::wgpu::ComputePipelineDescriptor {
                label: Some(kernel.entry),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: ::wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: self.cache.as_ref().map(|cache| &cache.pipelines),
            });
        match pollster::block_on(scope.pop()) {
            None => Ok(Compiled {
                shader,
                pipeline,
                layout,
            }),
            Some(error) => {
                let detail = super::faults::describe(&error);
                device_error(
                    NAME,
                    format!("shaders/{}.wgsl, {}: {detail}", kernel.module, kernel.entry),
                )
            }
        }
    }

    /// The dispatches of a kernel on `arguments`, the bytes of its struct.
    pub fn dispatches(
        &mut self,
        memory: &Memory,
        kernel: Kernel,
        launch: Launch,
        arguments: &[u8],
    ) -> Result<Dispatches<'_>> {
        if !self.compiled.contains_key(&kernel) {
            let compiled = self.compile(kernel)?;
            self.compiled.insert(kernel, compiled);
            self.fresh = true;
        }
        let Some(Compiled {
            shader,
            pipeline,
            layout,
        }) = self.compiled.get(&kernel)
        else {
            return device_error(NAME, kernel.entry);
        };
        let limits = self.device.limits();
        let wrong = |what: String| device_error(NAME, format!("{}: {what}", kernel.entry));
        let mut ranges = Vec::with_capacity(shader.bound.len());
        for (name, at, reads_offset) in &shader.bound {
            let address = address(arguments, *at);
            if address == 0 {
                ranges.push(Range {
                    buffer: 0,
                    offset: 0,
                    size: 256,
                });
                continue;
            }
            let (range, offset) = memory.range(address)?;
            if offset > 0 && !reads_offset {
                return wrong(format!(
                    "{name} begins {offset} bytes into its buffer, which the shader does not read"
                ));
            }
            if range.size > limits.max_storage_buffer_binding_size {
                let most = limits.max_storage_buffer_binding_size;
                return wrong(format!(
                    "{name} has {} bytes, and a binding of this adapter at most {most}",
                    range.size
                ));
            }
            ranges.push(range);
        }
        let offset = |_: &str, address: Address| match memory.range(address) {
            Ok((_, offset)) if offset < u64::from(NONE) => Ok(offset as u32),
            Ok((_, offset)) => Err(format!("an offset of {offset} bytes")),
            Err(error) => Err(error.detail()),
        };
        let [x, y, z] = launch.grid.map(u64::from);
        let total = x * y * z;
        let Ok(end) = u32::try_from(total) else {
            return wrong(format!("a grid of {:?} workgroups", launch.grid));
        };
        let wanted = launch.work.div_ceil(MOST_WORK).clamp(1, total);
        let each = total.div_ceil(wanted).min(FOLD * FOLD);
        let mut parts = Vec::new();
        for first in (0..end).step_by(each as usize) {
            let last = u64::from(first).saturating_add(each).min(total) as u32;
            let fold = u64::from(last - first).min(FOLD) as u32;
            let of = Workgroups {
                grid: [launch.grid[0], launch.grid[1]],
                fold,
                first,
                last,
            };
            match shader.plan.numbers(arguments, of, offset) {
                Ok(numbers) => parts.push((numbers, [fold, (last - first).div_ceil(fold)])),
                Err(what) => return wrong(what),
            }
        }
        if self.groups.len() >= MOST_GROUPS {
            self.groups.clear();
        }
        let key = (kernel, ranges);
        let buffers = match self.groups.get(&key) {
            Some(group) => group.clone(),
            None => {
                let mut entries = Vec::with_capacity(key.1.len());
                for (binding, range) in key.1.iter().enumerate() {
                    let buffer = match range.buffer {
                        0 => &self.dummy,
                        number => memory.buffer(number)?,
                    };
                    entries.push(BindGroupEntry {
                        binding: binding as u32,
                        resource: BindingResource::Buffer(BufferBinding {
                            buffer,
                            offset: range.offset,
                            size: NonZeroU64::new(range.size),
                        }),
                    });
                }
                let group = self.device.create_bind_group(&::wgpu::BindGroupDescriptor {
                    label: Some(kernel.entry),
                    layout,
                    entries: &entries,
                });
                self.groups.insert(key, group.clone());
                group
            }
        };
        Ok(Dispatches {
            pipeline,
            buffers,
            immediate: shader.immediate,
            parts,
        })
    }
}
