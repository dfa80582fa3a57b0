//! How long kernels take by the adapter's own clock (timestamp queries): for benchmarks.

use super::NAME;
use super::readback::{self, Readback};
use crate::backend::gpu::device::{Kernel, KernelTime};
use crate::backend::{Result, device_error};
use ::wgpu::{Buffer, BufferUsages, CommandEncoder, QuerySet, SubmissionIndex};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a timestamp.
const STAMP: usize = size_of::<u64>();

/// Two timestamps a dispatch, and the dispatches that they belong to.
#[derive(Debug)]
pub(super) struct Clock {
    queries: QuerySet,
    /// Timestamps as the adapter gives them, before they are copied to where the host reads.
    resolved: Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// What the queries of the submission in the making belong to.
    dispatched: Vec<Kernel>,
    arriving: Vec<(Readback, Vec<Kernel>)>,
}

/// Timestamps on their way into a buffer of the host's.
pub(super) struct Stamps {
    buffer: Buffer,
    parts: Vec<(u64, usize)>,
    of: Vec<Kernel>,
}

impl Clock {
    /// For submissions of at most `dispatches`; `None` where the device cannot tell.
    pub fn new(device: &::wgpu::Device, queue: &::wgpu::Queue, dispatches: usize) -> Option<Self> {
        let has = device
            .features()
            .contains(::wgpu::Features::TIMESTAMP_QUERY);
        let make = || Self {
            queries: device.create_query_set(&::wgpu::QuerySetDescriptor {
                label: None,
                ty: ::wgpu::QueryType::Timestamp,
                count: 2 * dispatches as u32,
            }),
            resolved: device.create_buffer(&::wgpu::BufferDescriptor {
                label: None,
                size: (2 * dispatches * STAMP) as u64,
                usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            period: queue.get_timestamp_period().into(),
            dispatched: Vec::new(),
            arriving: Vec::new(),
        };
        has.then(make)
    }

    /// A pass for one dispatch of `kernel`, timed.
    pub fn pass(
        &mut self,
        encoder: &mut CommandEncoder,
        kernel: Kernel,
    ) -> ::wgpu::ComputePass<'static> {
        let first = 2 * self.dispatched.len() as u32;
        self.dispatched.push(kernel);
        let pass = encoder.begin_compute_pass(&::wgpu::ComputePassDescriptor {
            label: Some(kernel.entry),
            timestamp_writes: Some(::wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        });
        pass.forget_lifetime()
    }

    /// The commands that bring a submission's timestamps to the host; nothing if it has none.
    pub fn collect(
        &mut self,
        device: &::wgpu::Device,
        encoder: &mut CommandEncoder,
    ) -> Option<Stamps> {
        let of = std::mem::take(&mut self.dispatched);
        if of.is_empty() {
            return None;
        }
        let bytes = 2 * of.len() * STAMP;
        let (buffer, parts) = readback::room(device, [bytes].into_iter());
        encoder.resolve_query_set(&self.queries, 0..2 * of.len() as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &buffer, 0, Some(bytes as u64));
        Some(Stamps { buffer, parts, of })
    }

    /// `stamps` were submitted.
    pub fn submitted(&mut self, stamps: Stamps, submission: &SubmissionIndex) {
        let readback = Readback::new(stamps.buffer, stamps.parts, submission.clone());
        self.arriving.push((readback, stamps.of));
    }

    /// What all kernels took since the last call, by kernel, waiting for them.
    pub fn times(&mut self, device: &::wgpu::Device) -> Result<Vec<KernelTime>> {
        let mut all: BTreeMap<(&str, &str), (u64, f64)> = BTreeMap::new();
        for (readback, of) in self.arriving.drain(..) {
            let bytes = readback.wait(device)?;
            let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
            for (kernel, ends) in of.into_iter().zip(stamps.chunks_exact(2)) {
                let Some(ticks) = ends[1].checked_sub(ends[0]) else {
                    return device_error(NAME, "the adapter's clock went back");
                };
                let sum = all.entry((kernel.module, kernel.entry)).or_default();
                sum.0 += 1;
                sum.1 += ticks as f64 * self.period;
            }
        }
        let time =
            |((module, entry), (dispatches, nanoseconds)): ((_, _), (u64, f64))| KernelTime {
                kernel: Kernel { module, entry },
                dispatches,
                time: Duration::from_nanos(nanoseconds as u64),
            };
        Ok(all.into_iter().map(time).collect())
    }
}
