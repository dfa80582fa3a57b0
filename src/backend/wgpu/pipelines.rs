//! Kernels of a device: WGSL assembled, compiled at its first use, and bound to buffers.

use super::arguments::{NONE, Plan, Workgroups, address};
use super::faults::LESS_MEMORY;
use super::memory::{Memory, Range};
use super::pipeline_cache::DiskCache;
use super::shader::{Bound, Shader, shader, tensors};
use super::source::{self, Instance, Lanes};
use super::windows::Bindings;
use super::{NAME, Options};
use crate::backend::gpu::device::{Address, Kernel, Launch};
use crate::backend::{Result, device_error};
use ::wgpu::{
    BindGroup, BindGroupEntry, BindGroupLayout, BindingResource, BufferBinding, ComputePipeline,
};
use std::collections::HashMap;
use std::num::NonZeroU64;

/// Workgroups in a row of a folded dispatch.
const FOLD: u64 = 65_535;

/// Operations of a dispatch: systems with a desktop end what runs for seconds.
const MOST_WORK: u64 = 20_000_000_000;

/// A kernel, whatever its tensors' sizes.
#[derive(Debug)]
struct Known {
    instance: Instance,
    tensors: Vec<Bound>,
}

/// A kernel for tensors in so many windows each.
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
    lanes: Lanes,
    bindings: Bindings,
    /// Storage buffers that a kernel can bind.
    most_buffers: u32,
    known: HashMap<Kernel, Known>,
    compiled: HashMap<(Kernel, Vec<u32>), Compiled>,
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
        lanes: Lanes,
        options: &Options,
        cache: Option<DiskCache>,
    ) -> Self {
        let limits = device.limits();
        Self {
            immediates: match options.immediates {
                true => limits.max_immediate_size as usize,
                false => 0,
            },
            lanes,
            bindings: Bindings {
                most: limits.max_storage_buffer_binding_size,
                halves: options.halves,
            },
            most_buffers: limits.max_storage_buffers_per_shader_stage,
            known: HashMap::new(),
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
        self.lanes.size = 0;
        self.known.clear();
        self.compiled.clear();
        self.groups.clear();
    }

    /// Whether a tensor of `size` bytes is split over bindings.
    pub fn splits(&self, size: u64) -> bool {
        self.bindings.windows(size).len() > 1
    }

    /// How numbers are bound that immediates have no room for.
    pub fn uniform(&self) -> &BindGroupLayout {
        &self.uniform
    }

    /// Forgets what names buffers that may be given back.
    pub fn forget_groups(&mut self) {
        self.groups.clear();
    }

    /// What is to be known of a kernel before it is compiled.
    fn know(&mut self, kernel: Kernel) -> Result<&Known> {
        let Kernel { module, entry, .. } = kernel;
        if !self.known.contains_key(&kernel) {
            let none = || Err(format!("shaders/{module}.wgsl has no kernel {entry}"));
            let known = source::instance(module, entry, self.lanes)
                .and_then(|found| found.map_or_else(none, Ok))
                .and_then(|instance| {
                    let plan = Plan::new(instance.module, &instance.arguments)?;
                    let tensors = tensors(&instance, &plan)?;
                    Ok(Known { instance, tensors })
                });
            match known {
                Ok(known) => self.known.insert(kernel, known),
                Err(error) => return device_error(NAME, error),
            };
        }
        Ok(&self.known[&kernel])
    }

    /// The name of the struct that a kernel takes.
    pub fn takes(&mut self, kernel: Kernel) -> Result<String> {
        Ok(self.know(kernel)?.instance.arguments.clone())
    }

    fn compile(&self, kernel: Kernel, windows: &[u32]) -> Result<Compiled> {
        let count: u32 = windows.iter().sum();
        if count > self.most_buffers {
            let (most, buffers) = (self.bindings.most, self.most_buffers);
            return device_error(
                NAME,
                format!(
                    "{}: its tensors need {count} bindings of {most} bytes, and this adapter has {buffers} \
                     (max_storage_buffers_per_shader_stage); {LESS_MEMORY}",
                    kernel.entry
                ),
            );
        }
        let instance = &self.known[&kernel].instance;
        let shader = match shader(instance, self.immediates, windows) {
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
        let entries: Vec<_> = (0..count).map(entry).collect();
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
        let wrong = |what: String| device_error(NAME, format!("{}: {what}", kernel.entry));
        let bindings = self.bindings;
        let (mut ranges, mut windows) = (Vec::new(), Vec::new());
        for tensor in &self.know(kernel)?.tensors {
            let address = address(arguments, tensor.at);
            if address == 0 {
                windows.push(1);
                ranges.push(Range {
                    buffer: 0,
                    offset: 0,
                    size: 256,
                });
                continue;
            }
            let (range, offset) = memory.range(address)?;
            if offset > 0 && !tensor.reads_offset {
                let name = &tensor.name;
                return wrong(format!(
                    "{name} begins {offset} bytes into its buffer, which the shader does not read"
                ));
            }
            let of = bindings.windows(range.size);
            windows.push(of.len() as u32);
            ranges.extend(of.map(|(offset, size)| Range {
                buffer: range.buffer,
                offset: range.offset + offset,
                size,
            }));
        }
        let instance = (kernel, windows);
        if !self.compiled.contains_key(&instance) {
            let compiled = self.compile(kernel, &instance.1)?;
            self.compiled.insert(instance.clone(), compiled);
            self.fresh = true;
        }
        let Compiled {
            shader,
            pipeline,
            layout,
        } = &self.compiled[&instance];
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
