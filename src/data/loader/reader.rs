//! The thread that reads samples in the order of their rounds.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{LoaderConfig, Shared, Start, Task, too_few};
use crate::data::dataset::Order;
use crate::data::error::{Error, Result};
use crate::data::sample::Sample;
use crate::data::skips::Skips;
use crate::tensor::rng::{Philox, Purpose};

/// The reader: numbers the epoch's samples and queues those from number `first` on.
pub(super) struct Reader<'a> {
    config: &'a LoaderConfig,
    shared: &'a Shared,
    first: u64,
    /// Of the next sample.
    number: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(config: &'a LoaderConfig, shared: &'a Shared, first: u64) -> Self {
        Self {
            config,
            shared,
            first,
            number: 0,
        }
    }

    /// Reads rounds until all must stop.
    pub(super) fn run(mut self, start: Start) {
        let (mut round, mut pass) = (start.round, start.read);
        loop {
            let begin = i128::from(self.number) - i128::from(pass);
            self.shared.lock().rounds.push((begin, round));
            self.shared.done.notify_all();
            match self.round(round, pass) {
                Ok(ControlFlow::Break(())) => return,
                Err(error) => return self.shared.fail(error),
                Ok(ControlFlow::Continue(())) => {}
            }
            let read = i128::from(self.number) - begin;
            if self.config.length.is_none() {
                self.shared.lock().total = Some(self.number);
                self.shared.done.notify_all();
                return;
            }
            if read < self.config.batch_size as i128 {
                let samples = u64::try_from(read).unwrap_or_default();
                let error = self.too_few(samples);
                return self.shared.fail(error);
            }
            (round, pass) = (round.wrapping_add(1), 0);
        }
    }

    fn too_few(&self, samples: u64) -> Error {
        too_few(self.config, samples, self.shared.lock().skips.clone())
    }

    /// Reads one round, passing over its first `pass` samples.
    fn round(&mut self, round: u32, mut pass: u64) -> Result<ControlFlow<()>> {
        let (config, shared) = (self.config, self.shared);
        let shuffled = config.shuffle_buffer > 0;
        let order = Order {
            seed: config.seed,
            round,
            shuffled,
        };
        let mut draw = Philox::new(config.seed, Purpose::Shuffle, round, 0);
        let mut buffer: Vec<(u64, Arc<Sample>)> = Vec::new();
        let mut emit = |id, sample| {
            if pass > 0 {
                pass -= 1;
                return ControlFlow::Continue(());
            }
            self.emit(round, id, sample)
        };
        for visit in config.dataset.visits(order) {
            let mut skips = Skips::default();
            shared.lock().shards += u64::from(!config.dataset.is_table());
            let flow = config
                .dataset
                .visit(visit, order, &mut skips, &mut |id, sample| {
                    if !shuffled {
                        return emit(id, sample);
                    }
                    if buffer.len() < config.shuffle_buffer {
                        buffer.push((id, sample));
                        return ControlFlow::Continue(());
                    }
                    let place = draw.below(buffer.len() as u32) as usize;
                    let (id, sample) = std::mem::replace(&mut buffer[place], (id, sample));
                    emit(id, sample)
                });
            shared.lock().skips.merge(&skips);
            if flow?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        draw.shuffle(&mut buffer);
        for (id, sample) in buffer {
            if emit(id, sample).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Numbers a sample and queues it when its turn has come; breaks if all must stop.
    fn emit(&mut self, round: u32, id: u64, sample: Arc<Sample>) -> ControlFlow<()> {
        let (number, shared) = (self.number, self.shared);
        let mut state = shared.lock();
        state.in_hand = number;
        if number >= state.window {
            shared.done.notify_all();
        }
        while !state.stop && number >= self.first && number >= state.window {
            state = Shared::wait(&shared.work, state);
        }
        if state.stop {
            return ControlFlow::Break(());
        }
        if number >= self.first {
            state.queue.push_back(Task {
                number,
                round,
                id,
                sample,
            });
            shared.work.notify_all();
        }
        self.number += 1;
        state.read = self.number;
        ControlFlow::Continue(())
    }
}
