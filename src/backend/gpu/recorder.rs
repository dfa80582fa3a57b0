//! Replayed steps: what a step asks of the device is recorded, and a step that asks for the same again is run in one
//! piece (a CUDA graph), which spares a launch for every kernel.
//!
//! Within a step, calls are held back as long as they are those of a step before, call for call and byte for byte. A
//! step that goes on as one before it to its end is run as a piece, made at its second time. At the first call that
//! differs, what was held back is run, and the rest of the step as it comes. So nothing has to
//! promise that it recurs; whatever differs (another shape, say) costs the time in which the device had nothing to do,
//! if the host is not a step ahead of it anyway.
//!
//! For calls to be the same, their addresses must be: memory comes from a [`Pool`], whose answers depend on nothing but
//! what is free. What the host sends within a step is sent at once, before what is held back: it is in memory of its
//! own, which is not used again before the step is over. What comes to the host comes after it; where the host waits in
//! the middle of a step, nothing is held back any more.

#[cfg(test)]
mod tests;

use super::device::{Address, Call, Device, Kernel, Launch, Product, Replay};
use super::pool::Pool;
use crate::backend::{Result, device_error};
use crate::notices::warning;
use crate::tensor::DType;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Steps that are remembered: the one unused for longest goes first. Steps and their parts are of a few kinds, by the
/// multiple that their texts were filled up to.
const MOST: usize = 32;

/// A device whose steps are recorded and replayed.
#[derive(Debug)]
pub(in crate::backend) struct Recorder {
    inner: Arc<dyn Replay>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    memory: Pool,
    inputs: Pool,
    /// Given back within the step, of `inputs`.
    retired: Vec<(Address, usize)>,
    /// Between the beginning and the end of a step.
    step: Option<Step>,
    known: Vec<Known>,
    /// Whether the device could not make a piece: then none is asked for again.
    refused: bool,
    steps: u64,
    replays: u64,
    tickets: u64,
    /// By the tickets given out: the device's.
    fetches: HashMap<u64, u64>,
}

/// What a step has asked for so far.
#[derive(Debug)]
struct Step {
    calls: Vec<Call>,
    /// Those of the known steps that began alike; while there is one, nothing of `calls` has been run.
    alike: Vec<usize>,
    /// What is to be fetched after `calls`, by the ticket given out.
    fetches: Vec<(u64, Vec<(Address, usize)>)>,
    /// Whether something has been fetched.
    fetched: bool,
    /// Whether `calls` are all of the step: the host did not wait or fetch in between.
    whole: bool,
}

/// A step that was run.
#[derive(Debug)]
struct Known {
    calls: Vec<Call>,
    /// Once it was asked for a second time.
    piece: Option<u64>,
    /// The number of the step that was like it last.
    used: u64,
}

impl Recorder {
    pub fn new(inner: Arc<dyn Replay>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// The state, whose every change leaves it whole even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, call: Call) -> Result<()> {
        let state = &mut *self.state();
        let Some(step) = &mut state.step else {
            return call.run(&*self.inner);
        };
        if step.fetched {
            step.whole = false;
        }
        let place = step.calls.len();
        let same = |k: &usize| state.known[*k].calls.get(place) == Some(&call);
        let held_back = !step.alike.is_empty();
        if held_back && step.fetches.is_empty() && step.alike.iter().any(same) {
            step.alike.retain(same);
            step.calls.push(call);
            return Ok(());
        }
        state.catch_up(&*self.inner)?;
        let run = call.run(&*self.inner);
        if let Some(step) = &mut state.step {
            step.whole &= run.is_ok();
            step.calls.push(call);
        }
        run
    }

    /// The state after everything asked for has been passed on. The rest of the step is run as it comes, and not
    /// remembered.
    fn caught_up(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if let Some(step) = &mut state.step {
            step.whole = false;
        }
        state.catch_up(&*self.inner)?;
        Ok(state)
    }

    fn block(&self, bytes: usize, of: fn(&mut State) -> &mut Pool) -> Result<Address> {
        let state = &mut *self.state();
        if let Some(at) = of(state).take(bytes) {
            return Ok(at);
        }
        let [ample, enough] = Pool::segment_for(bytes);
        let (at, size) = match self.inner.allocate(ample) {
            Ok(at) => (at, ample),
            Err(_) => {
                // The pieces name memory that may be given back here.
                state.catch_up(&*self.inner)?;
                state.forget(&*self.inner);
                let idle = [state.memory.trim(), state.inputs.trim()].concat();
                idle.iter()
                    .for_each(|&(at, size)| self.inner.free(at, size));
                (self.inner.allocate(enough)?, enough)
            }
        };
        let pool = of(state);
        pool.add(at, size);
        Ok(pool.take(bytes).unwrap_or(at))
    }
}

impl State {
    /// Runs what was held back.
    fn catch_up(&mut self, device: &dyn Replay) -> Result<()> {
        let Some(step) = &mut self.step else {
            return Ok(());
        };
        if !std::mem::take(&mut step.alike).is_empty() {
            let run = step.calls.iter().try_for_each(|call| call.run(device));
            // What comes after a failure is neither to be remembered nor to be read.
            run.inspect_err(|_| {
                step.whole = false;
                step.fetches.clear();
            })?;
        }
        self.send_for(device)
    }

    /// Passes on what is to be fetched.
    fn send_for(&mut self, device: &dyn Replay) -> Result<()> {
        if let Some(step) = &mut self.step {
            for (ticket, parts) in step.fetches.drain(..) {
                self.fetches.insert(ticket, device.fetch(&parts)?);
            }
        }
        Ok(())
    }

    /// Forgets all steps.
    fn forget(&mut self, device: &dyn Replay) {
        for known in self.known.drain(..) {
            known.forget(device);
        }
    }

    /// Runs the whole step that `known[k]` is like.
    fn replay(&mut self, k: usize, device: &dyn Replay) -> Result<()> {
        let known = &mut self.known[k];
        let piece = match known.piece {
            Some(piece) => piece,
            None => match device.capture(&known.calls) {
                Ok(piece) => *known.piece.insert(piece),
                Err(e) => {
                    warning(format_args!(
                        "steps cannot be replayed, and are run kernel by kernel: {e}"
                    ));
                    self.refused = true;
                    self.catch_up(device)?;
                    self.forget(device);
                    return Ok(());
                }
            },
        };
        if let Some(step) = &mut self.step {
            step.alike.clear();
        }
        device.replay(piece)?;
        self.replays += 1;
        self.send_for(device)
    }

    /// Ends the step, if there is one.
    fn end(&mut self, device: &dyn Replay) -> Result<()> {
        let ended = self.run(device);
        self.step = None;
        for (at, bytes) in self.retired.drain(..) {
            self.inputs.give(at, bytes);
        }
        ended
    }

    /// Sees to it that the whole step is run, and remembers it.
    fn run(&mut self, device: &dyn Replay) -> Result<()> {
        let Some(step) = &self.step else {
            return Ok(());
        };
        self.steps += 1;
        let length = step.calls.len();
        let like = |k: &usize| self.known[*k].calls.len() == length;
        if let Some(k) = step.alike.iter().copied().find(like) {
            self.known[k].used = self.steps;
            return self.replay(k, device);
        }
        self.catch_up(device)?;
        let refused = self.refused;
        let Some(step) = self.step.take().filter(|step| step.whole && !refused) else {
            return Ok(());
        };
        if self.known.len() >= MOST {
            let oldest = (0..self.known.len()).min_by_key(|&k| self.known[k].used);
            oldest
                .into_iter()
                .for_each(|k| self.known.swap_remove(k).forget(device));
        }
        self.known.push(Known {
            calls: step.calls,
            piece: None,
            used: self.steps,
        });
        Ok(())
    }
}

impl Known {
    fn forget(self, device: &dyn Replay) {
        if let Some(piece) = self.piece {
            device.discard(piece);
        }
    }
}

impl Device for Recorder {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn low_type(&self) -> DType {
        self.inner.low_type()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.block(bytes, |state| &mut state.memory)
    }

    fn allocate_input(&self, bytes: usize) -> Result<Address> {
        self.block(bytes, |state| &mut state.inputs)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut state = self.state();
        match state.inputs.owns(at) {
            true if state.step.is_some() => state.retired.push((at, bytes)),
            true => state.inputs.give(at, bytes),
            false => state.memory.give(at, bytes),
        }
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        let _in_order = self.state();
        self.inner.upload(to, from)
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        let _state = self.caught_up()?;
        self.inner.download(from, to)
    }

    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64> {
        let state = &mut *self.state();
        state.tickets += 1;
        let ticket = state.tickets;
        match &mut state.step {
            Some(step) => {
                step.fetched = true;
                step.fetches.push((ticket, parts.to_vec()));
                if step.alike.is_empty() {
                    state.send_for(&*self.inner)?;
                }
            }
            None => {
                let theirs = self.inner.fetch(parts)?;
                state.fetches.insert(ticket, theirs);
            }
        }
        Ok(ticket)
    }

    fn collect(&self, ticket: u64) -> Result<Vec<u8>> {
        let mut state = self.state();
        if !state.fetches.contains_key(&ticket) {
            drop(state);
            state = self.caught_up()?;
        }
        let Some(theirs) = state.fetches.remove(&ticket) else {
            return device_error("gpu", format!("nothing was fetched as {ticket}"));
        };
        drop(state);
        self.inner.collect(theirs)
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.call(Call::Clear(at, bytes))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.call(Call::Copy(from, to, bytes))
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()> {
        self.call(Call::Launch(kernel, launch, arguments.into()))
    }

    fn takes(&self, kernel: Kernel) -> Result<Option<String>> {
        self.inner.takes(kernel)
    }

    fn product(&self, product: &Product) -> Result<()> {
        self.call(Call::Product(*product))
    }

    fn begin_step(&self) -> Result<()> {
        let mut state = self.state();
        // A panic may have left one open.
        let ended = state.end(&*self.inner);
        let alike = (0..state.known.len()).collect();
        state.step = Some(Step {
            calls: Vec::new(),
            alike,
            fetches: Vec::new(),
            fetched: false,
            whole: true,
        });
        ended
    }

    fn end_step(&self) -> Result<()> {
        self.state().end(&*self.inner)
    }

    fn replays(&self) -> u64 {
        self.state().replays
    }

    fn synchronise(&self) -> Result<()> {
        let _state = self.caught_up()?;
        self.inner.synchronise()
    }

    fn waits(&self) -> u64 {
        self.inner.waits()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut state = self.state();
        state.forget(&*self.inner);
        let segments = [state.memory.close(), state.inputs.close()].concat();
        segments
            .iter()
            .for_each(|&(at, size)| self.inner.free(at, size));
    }
}
