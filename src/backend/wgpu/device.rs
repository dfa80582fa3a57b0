//! An adapter's device: commands are recorded into one pass and submitted many at a time.

use super::adapter::{self, Opened};
use super::clock::Clock;
use super::faults::Faults;
use super::memory::Memory;
use super::pipeline_cache::DiskCache;
use super::pipelines::{Dispatches, Pipelines};
use super::readback::{self, Readback};
use super::source::Lanes;
use super::{NAME, Options, moves, product};
use crate::backend::gpu::device::{Address, Device, Kernel, KernelTime, Launch, Product};
use crate::backend::{Result, device_error};
use crate::tensor::DType;
use ::wgpu::{CommandEncoder, ComputePass, PollType, SubmissionIndex};
use bytemuck::{Pod, bytes_of};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Dispatches of a submission: enough that submitting costs little, and few enough that the device begins early.
const MOST_DISPATCHES: usize = 256;
/// Operations of a submission, for the same reason.
const MOST_WORK: u64 = 20_000_000_000;
/// Bytes sent by the host before they are submitted: wgpu holds a copy of them until then.
const MOST_SENT: usize = 64 << 20;
/// Slots for numbers that immediates have no room for, of a submission, and the bytes of each.
const UNIFORMS: usize = 256;
const UNIFORM: usize = 256;

#[derive(Debug)]
pub(super) struct Wgpu {
    device: ::wgpu::Device,
    queue: ::wgpu::Queue,
    description: String,
    faults: Faults,
    /// Whether products may use cooperative matrices.
    cooperative: bool,
    lanes: Lanes,
    state: Mutex<State>,
}

struct State {
    memory: Memory,
    pipelines: Pipelines,
    recording: Option<Recording>,
    /// Numbers of the dispatches recorded, where immediates have no room for them.
    uniforms: Vec<u8>,
    uniform_buffer: ::wgpu::Buffer,
    uniform_group: ::wgpu::BindGroup,
    dispatches: usize,
    /// Operations of these dispatches, as far as they are told.
    work: u64,
    sent: usize,
    clock: Option<Clock>,
    readbacks: HashMap<u64, Readback>,
    tickets: u64,
    waits: u64,
}

/// Commands not submitted yet. The pass is declared first, and so ends first.
struct Recording {
    pass: Option<ComputePass<'static>>,
    encoder: CommandEncoder,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl Wgpu {
    pub fn open(options: &Options) -> Result<Self> {
        let Opened {
            device,
            queue,
            info,
            cooperative,
        } = adapter::open(options)?;
        let faults = Faults::default();
        faults.listen(&device);
        let subgroups = options.subgroups
            && device.features().contains(::wgpu::Features::SUBGROUP)
            && info.subgroup_min_size == info.subgroup_max_size
            && [8, 16, 32, 64].contains(&info.subgroup_min_size);
        let lanes = Lanes {
            size: if subgroups { info.subgroup_min_size } else { 0 },
            on_processor: info.device_type == ::wgpu::DeviceType::Cpu,
        };
        let pipelines = Pipelines::new(&device, lanes, options, DiskCache::open(&device, &info));
        let uniform_buffer = device.create_buffer(&::wgpu::BufferDescriptor {
            label: None,
            size: (UNIFORMS * UNIFORM) as u64,
            usage: ::wgpu::BufferUsages::UNIFORM | ::wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let uniform_group = device.create_bind_group(&::wgpu::BindGroupDescriptor {
            label: None,
            layout: pipelines.uniform(),
            entries: &[::wgpu::BindGroupEntry {
                binding: 0,
                resource: ::wgpu::BindingResource::Buffer(::wgpu::BufferBinding {
                    buffer: &uniform_buffer,
                    offset: 0,
                    size: std::num::NonZeroU64::new(UNIFORM as u64),
                }),
            }],
        });
        let description = format!(
            "{} through {} ({} {})",
            info.name, info.backend, info.driver, info.driver_info
        );
        let mut opened = Self {
            state: Mutex::new(State {
                memory: Memory::default(),
                pipelines,
                recording: None,
                uniforms: Vec::new(),
                uniform_buffer,
                uniform_group,
                dispatches: 0,
                work: 0,
                sent: 0,
                clock: options
                    .timed
                    .then(|| Clock::new(&device, &queue, MOST_DISPATCHES))
                    .flatten(),
                readbacks: HashMap::new(),
                tickets: 0,
                waits: 0,
            }),
            device,
            queue,
            description,
            faults,
            cooperative: cooperative && subgroups,
            lanes,
        };
        let found = match subgroups && opened.lanes_are_neighbours(info.subgroup_min_size)? {
            true => format!("subgroups of {}", info.subgroup_min_size),
            false => {
                (opened.cooperative, opened.lanes.size) = (false, 0);
                opened.state().pipelines.without_subgroups();
                "no subgroups".into()
            }
        };
        opened.description += &format!(", {found}");
        if opened.cooperative {
            opened.description += ", cooperative matrices";
        }
        Ok(opened)
    }

    /// Whether a subgroup is `size` neighbouring invocations in their order, which WGSL does not promise and sums rely on.
    fn lanes_are_neighbours(&self, size: u32) -> Result<bool> {
        let mut words = [0u32; 256];
        let at = self.allocate(size_of_val(&words), false)?;
        self.run(moves::lanes(at))?;
        self.download(at, bytemuck::cast_slice_mut(&mut words))?;
        self.free(at, size_of_val(&words));
        let mut places = (0..).zip(words);
        Ok(places.all(|(i, word)| word == (i % size) | (size << 16)))
    }

    /// The state, whose every change leaves it whole even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recording<'a>(&self, recording: &'a mut Option<Recording>) -> &'a mut Recording {
        recording.get_or_insert_with(|| Recording {
            pass: None,
            encoder: self.device.create_command_encoder(&Default::default()),
        })
    }

    /// Submits what was recorded.
    fn submit(&self, state: &mut State) -> SubmissionIndex {
        let mut stamps = None;
        let commands = state.recording.take().map(|recording| {
            let Recording { pass, mut encoder } = recording;
            drop(pass);
            let clock = state.clock.as_mut();
            stamps = clock.and_then(|clock| clock.collect(&self.device, &mut encoder));
            encoder.finish()
        });
        if !state.uniforms.is_empty() {
            self.queue
                .write_buffer(&state.uniform_buffer, 0, &state.uniforms);
            state.uniforms.clear();
        }
        let index = self.queue.submit(commands);
        if let (Some(clock), Some(stamps)) = (&mut state.clock, stamps) {
            clock.submitted(stamps, &index);
        }
        (state.dispatches, state.work, state.sent) = (0, 0, 0);
        state.memory.submitted();
        index
    }

    fn run<A: Pod>(&self, (kernel, launch, arguments): (Kernel, Launch, A)) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.launch(kernel, launch, bytes_of(&arguments))
    }

    /// Whether none of a product's tensors is split over bindings.
    fn in_one_piece(&self, of: &Product) -> Result<bool> {
        let state = self.state();
        for at in [of.a.at, of.b.at, of.d.at] {
            let (range, _) = state.memory.range(at)?;
            if state.pipelines.splits(range.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn allocate(&self, bytes: usize, input: bool) -> Result<Address> {
        self.faults.check()?;
        let state = &mut *self.state();
        let made = state.memory.trims();
        let at = state.memory.allocate(&self.device, bytes, input);
        if state.memory.trims() != made {
            state.pipelines.forget_groups();
        }
        at
    }
}

impl Device for Wgpu {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn low_type(&self) -> DType {
        DType::F16
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.allocate(bytes, false)
    }

    fn allocate_input(&self, bytes: usize) -> Result<Address> {
        self.allocate(bytes, true)
    }

    fn held(&self) -> Option<usize> {
        Some(self.state().memory.held())
    }

    fn free(&self, at: Address, _bytes: usize) {
        self.state().memory.free(at);
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.faults.check()?;
        let state = &mut *self.state();
        if from.is_empty() {
            return Ok(());
        }
        let (range, offset) = state.memory.range(to)?;
        let (buffer, at) = (state.memory.buffer(range.buffer)?, range.offset + offset);
        let whole = from.len() / 4 * 4;
        self.queue.write_buffer(buffer, at, &from[..whole]);
        if whole < from.len() {
            let mut last = [0; 4];
            last[..from.len() - whole].copy_from_slice(&from[whole..]);
            self.queue.write_buffer(buffer, at + whole as u64, &last);
        }
        state.sent += from.len();
        if state.sent > MOST_SENT {
            self.submit(state);
        }
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.state().waits += 1;
        let ticket = self.fetch(&[(from, to.len())])?;
        to.copy_from_slice(&self.collect(ticket)?);
        Ok(())
    }

    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64> {
        self.faults.check()?;
        let state = &mut *self.state();
        let (buffer, places) = readback::room(&self.device, parts.iter().map(|part| part.1));
        for (&(address, bytes), &(to, _)) in parts.iter().zip(&places) {
            if bytes == 0 {
                continue;
            }
            let (range, offset) = state.memory.range(address)?;
            let from = state.memory.buffer(range.buffer)?;
            let recording = self.recording(&mut state.recording);
            recording.pass = None;
            let size = (bytes as u64).next_multiple_of(4);
            recording.encoder.copy_buffer_to_buffer(
                from,
                range.offset + offset,
                &buffer,
                to,
                Some(size),
            );
        }
        let submission = self.submit(state);
        state.tickets += 1;
        let ticket = state.tickets;
        state
            .readbacks
            .insert(ticket, Readback::new(buffer, places, submission));
        Ok(ticket)
    }

    fn collect(&self, ticket: u64) -> Result<Vec<u8>> {
        let readback = self.state().readbacks.remove(&ticket);
        let Some(readback) = readback else {
            return device_error(NAME, format!("nothing was fetched as {ticket}"));
        };
        let bytes = readback.wait(&self.device);
        self.faults.check()?;
        bytes
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.run(moves::clear(at, bytes))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.run(moves::copy(from, to, bytes))
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()> {
        self.faults.check()?;
        let state = &mut *self.state();
        let Dispatches {
            pipeline,
            buffers,
            immediate,
            parts,
        } = state
            .pipelines
            .dispatches(&state.memory, kernel, launch, arguments)?;
        let pipeline = pipeline.clone();
        for (numbers, [x, y]) in parts {
            let recording = self.recording(&mut state.recording);
            let pass = match (&mut recording.pass, &mut state.clock) {
                (pass, Some(clock)) => {
                    *pass = None;
                    pass.insert(clock.pass(&mut recording.encoder, kernel))
                }
                (Some(pass), None) => pass,
                (none, None) => {
                    let pass = recording.encoder.begin_compute_pass(&Default::default());
                    none.insert(pass.forget_lifetime())
                }
            };
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &buffers, &[]);
            let numbers: &[u8] = bytemuck::cast_slice(&numbers);
            match immediate {
                true => pass.set_immediates(0, numbers),
                false => {
                    let at = state.uniforms.len();
                    pass.set_bind_group(1, &state.uniform_group, &[at as u32]);
                    state.uniforms.extend_from_slice(numbers);
                    state.uniforms.resize(at + UNIFORM, 0);
                }
            }
            pass.dispatch_workgroups(x, y, 1);
            state.dispatches += 1;
            state.work += launch.work;
            let full = state.uniforms.len() >= UNIFORMS * UNIFORM;
            if full || state.dispatches >= MOST_DISPATCHES || state.work >= MOST_WORK {
                self.submit(state);
            }
        }
        Ok(())
    }

    fn takes(&self, kernel: Kernel) -> Result<Option<String>> {
        self.state().pipelines.takes(kernel).map(Some)
    }

    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let state = &mut *self.state();
        self.submit(state);
        match &mut state.clock {
            Some(clock) => clock.times(&self.device),
            None => Ok(Vec::new()),
        }
    }

    fn buffer_of(&self, at: Address) -> Option<(Address, u64)> {
        Some(Memory::whole(at))
    }

    fn fuses(&self) -> bool {
        true
    }

    fn product(&self, product: &Product) -> Result<()> {
        if self.cooperative && self.in_one_piece(product)? && product::is_cooperative(product) {
            return self.run(product::cooperative(product)?);
        }
        let parts = product::parts(product);
        if parts == 1 {
            return self.run(product::launch(product, self.lanes.in_a_register())?);
        }
        let bytes = size_of::<f32>() * parts * product.m * product.n;
        let at = self.allocate(bytes, false)?;
        let run = |(each, sum)| self.run(each).and_then(|()| self.run(sum));
        let done = product::shared(product, self.lanes.in_a_register(), parts, at).and_then(run);
        self.free(at, bytes);
        done
    }

    fn synchronise(&self) -> Result<()> {
        let mut state = self.state();
        state.waits += 1;
        let index = self.submit(&mut state);
        drop(state);
        let wait = PollType::Wait {
            submission_index: Some(index),
            timeout: None,
        };
        if let Err(error) = self.device.poll(wait) {
            return device_error(NAME, format!("waiting for the device: {error}"));
        }
        self.faults.check()
    }

    fn waits(&self) -> u64 {
        self.state().waits
    }
}
