//! Adapters: which there are, which one a run takes, and what it must have.

use super::{NAME, Options};
use crate::backend::device_info::{DeviceInfo, PrecisionSupport};
use crate::backend::{DeviceChoice, Result, device_error};
use ::wgpu::{
    Adapter, Backends, CooperativeScalarType, DeviceType, ExperimentalFeatures, Features, Instance,
    InstanceDescriptor, Limits,
};

/// What makes use of what an adapter has beyond WebGPU's defaults.
const WANTED: Features = Features::IMMEDIATES
    .union(Features::SUBGROUP)
    .union(Features::PIPELINE_CACHE)
    .union(Features::TIMESTAMP_QUERY);

/// Storage buffers that the largest kernel binds.
const STORAGE_BUFFERS: u32 = 16;

fn instance() -> Instance {
    Instance::new(InstanceDescriptor {
        backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
        ..InstanceDescriptor::new_without_display_handle()
    })
}

/// Real GPUs first, integrated ones after discrete ones, software last; otherwise in the system's order.
fn adapters() -> Vec<Adapter> {
    let mut adapters = pollster::block_on(instance().enumerate_adapters(Backends::all()));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}

fn kind(of: DeviceType) -> &'static str {
    match of {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Other => "device",
        DeviceType::Cpu => "software adapter",
    }
}

const NONE: &str = "no adapter: neither a Vulkan driver (on Linux the packages libvulkan1 and mesa-vulkan-drivers, or \
                    your GPU's own driver), nor Metal, nor DirectX 12 was found";

/// What an adapter lacks that every kernel needs.
fn lacking(limits: &Limits) -> Option<String> {
    let needs = [
        (
            "max_storage_buffers_per_shader_stage",
            limits.max_storage_buffers_per_shader_stage,
            STORAGE_BUFFERS,
        ),
        (
            "max_compute_workgroup_storage_size",
            limits.max_compute_workgroup_storage_size,
            16384,
        ),
        (
            "max_compute_invocations_per_workgroup",
            limits.max_compute_invocations_per_workgroup,
            256,
        ),
        (
            "max_compute_workgroup_size_x",
            limits.max_compute_workgroup_size_x,
            256,
        ),
        (
            "max_compute_workgroups_per_dimension",
            limits.max_compute_workgroups_per_dimension,
            65535,
        ),
    ];
    let short = needs.into_iter().find(|&(_, has, least)| has < least);
    short.map(|(name, has, least)| format!("its limit {name} is {has}, and kernels need {least}"))
}

/// What an adapter lacks for f16.
fn lacking_f16(features: Features) -> Option<String> {
    let has = features.contains(Features::SHADER_F16);
    (!has).then(|| "it lacks the feature SHADER_F16".to_owned())
}

/// An adapter's device and its queue.
#[derive(Debug)]
pub(super) struct Opened {
    pub device: ::wgpu::Device,
    pub queue: ::wgpu::Queue,
    pub info: ::wgpu::AdapterInfo,
    /// Whether it multiplies matrices of 16 × 16 in f16 and sums them in f32.
    pub cooperative: bool,
}

/// Whether an adapter multiplies matrices of 16 × 16 in f16 and sums them in f32.
fn multiplies_matrices(adapter: &Adapter) -> bool {
    let has = Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SHADER_F16;
    let kinds = adapter.cooperative_matrix_properties();
    let fits = |k: &::wgpu::CooperativeMatrixProperties| {
        [k.m_size, k.n_size, k.k_size] == [16; 3]
            && k.ab_type == CooperativeScalarType::F16
            && k.cr_type == CooperativeScalarType::F32
    };
    adapter.features().contains(has) && kinds.iter().any(fits)
}

/// The place in a list of names.
fn place(choice: &DeviceChoice, names: &[String]) -> Option<usize> {
    match choice {
        DeviceChoice::Number(number) => Some(*number).filter(|n| *n < names.len()),
        DeviceChoice::Name(part) => {
            let part = part.to_lowercase();
            names.iter().position(|n| n.to_lowercase().contains(&part))
        }
    }
}

/// The adapter that is chosen, with its own limits.
pub(super) fn open(options: &Options) -> Result<Opened> {
    let all = adapters();
    if all.is_empty() {
        return device_error(NAME, NONE);
    }
    let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
    let Some(adapter) = place(&options.adapter, &names).map(|place| &all[place]) else {
        let wanted = match &options.adapter {
            DeviceChoice::Name(part) => format!("whose name contains `{part}`"),
            DeviceChoice::Number(number) => number.to_string(),
        };
        let list = names.iter().enumerate().map(|(i, n)| format!("{i}: {n}"));
        let list = list.collect::<Vec<_>>().join(", ");
        return device_error(
            NAME,
            format!("there is no adapter {wanted}; there are {list}"),
        );
    };
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    if info.device_type == DeviceType::Cpu && !options.software {
        return device_error(NAME, format!("{} is a software adapter", info.name));
    }
    let missing = lacking(&limits).or_else(|| lacking_f16(features).filter(|_| options.f16));
    if let Some(missing) = missing {
        return device_error(NAME, format!("{} cannot be used: {missing}", info.name));
    }
    let low = if options.f16 {
        Features::SHADER_F16
    } else {
        Features::empty()
    };
    let cooperative = options.f16 && options.cooperative && multiplies_matrices(adapter);
    let (matrices, experimental) = match cooperative {
        true => (
            Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            // SAFETY: what wgpu does not check yet of cooperative matrices, `cooperative.wgsl` keeps: every subgroup takes
            // the same way, and stays within its tensors.
            unsafe { ExperimentalFeatures::enabled() },
        ),
        false => (Features::empty(), ExperimentalFeatures::disabled()),
    };
    let descriptor = ::wgpu::DeviceDescriptor {
        label: None,
        experimental_features: experimental,
        required_features: (features & WANTED) | low | matrices,
        required_limits: limits,
        ..Default::default()
    };
    match pollster::block_on(adapter.request_device(&descriptor)) {
        Ok((device, queue)) => Ok(Opened {
            device,
            queue,
            info,
            cooperative,
        }),
        Err(error) => device_error(NAME, format!("{} cannot be opened: {error}", info.name)),
    }
}

/// The adapters at hand, GPUs first.
///
/// # Errors
/// If there is none: what to install.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let all = adapters();
    if all.is_empty() {
        return device_error(NAME, NONE);
    }
    let device = |(index, adapter): (usize, &Adapter)| {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let named = [
            (Features::SHADER_F16, "f16"),
            (Features::SUBGROUP, "subgroups"),
            (Features::IMMEDIATES, "immediates"),
            (Features::TIMESTAMP_QUERY, "timestamps"),
            (Features::PIPELINE_CACHE, "pipeline cache"),
            (
                Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
                "cooperative matrices",
            ),
        ];
        let has = named
            .into_iter()
            .filter(|(feature, _)| features.contains(*feature));
        let has: Vec<_> = has.map(|(_, name)| name).collect();
        let fp32 = lacking(&limits).map_or(Ok(()), Err);
        let fp16 = fp32
            .clone()
            .and_then(|()| lacking_f16(features).map_or(Ok(()), Err));
        DeviceInfo {
            index,
            name: info.name,
            capability: format!(
                "{} through {}, bindings of {} MiB, {} KiB a workgroup, {}",
                kind(info.device_type),
                info.backend,
                limits.max_storage_buffer_binding_size >> 20,
                limits.max_compute_workgroup_storage_size >> 10,
                has.join(", "),
            ),
            memory: None,
            free: Err("WebGPU does not tell".into()),
            precisions: vec![
                PrecisionSupport {
                    precision: "fp32",
                    support: fp32,
                },
                PrecisionSupport {
                    precision: "amp_fp16",
                    support: fp16,
                },
            ],
        }
    };
    Ok(all.iter().enumerate().map(device).collect())
}
