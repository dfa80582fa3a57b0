//! The thread that puts batches together by number.

use std::sync::mpsc::SyncSender;

use super::{Batch, LoaderConfig, Mode, Outcome, Shared, too_few};
use crate::data::error::Result;

/// The assembler: sends batches in order, then hangs up.
pub(super) fn assemble(
    config: &LoaderConfig,
    shared: &Shared,
    first: u64,
    batches: &SyncSender<Result<Batch>>,
) {
    for index in first.. {
        let made = make_batch(config, shared, index);
        let last = !matches!(made, Ok(Some(_)));
        if let Some(item) = made.transpose()
            && !item.as_ref().is_ok_and(Batch::is_empty)
            && batches.send(item).is_err()
        {
            return;
        }
        if last {
            return;
        }
    }
}

/// Batch `index`, or `None` at the end of the epoch. Empty where an evaluation's samples are all
/// undecodable.
fn make_batch(config: &LoaderConfig, shared: &Shared, index: u64) -> Result<Option<Batch>> {
    let size = config.batch_size as u64;
    let start = index.saturating_mul(size);
    let end = start.saturating_add(size);
    if config.length.is_some_and(|length| end > length) {
        return Ok(None);
    }
    let ahead = size.saturating_mul(config.prefetch.max(1) as u64);
    let wanted = end.saturating_add(ahead);
    widen(
        shared,
        config.length.map_or(wanted, |length| wanted.min(length)),
    );
    let mut picked: Vec<Outcome> = Vec::with_capacity(config.batch_size.min(1 << 16));
    let mut places = Vec::new();
    for number in start..end {
        let Some(outcome) = outcome(shared, number)? else {
            break;
        };
        if let Err((kind, reason)) = &*outcome {
            let mut state = shared.lock();
            state.skips.add(*kind, || reason.clone());
            state.failed += 1;
            places.push(picked.len() + places.len());
        } else {
            picked.push(outcome);
        }
    }
    if config.mode == Mode::Train {
        // One that follows takes its place in the batch, and in its own turn comes again.
        let mut next = end;
        for place in places {
            let Some(found) = substitute(config, shared, &picked, &mut next)? else {
                break;
            };
            picked.insert(place, found);
        }
    }
    let total = shared.lock().total;
    let ended = total.is_some_and(|total| total <= start);
    match config.mode {
        Mode::Train if picked.len() < config.batch_size => {
            if index == 0 {
                let skips = shared.lock().skips.clone();
                return Err(too_few(config, picked.len() as u64, skips));
            }
            return Ok(None);
        }
        Mode::Evaluate if ended => return Ok(None),
        _ => {}
    }
    let mut batch = Batch {
        index,
        images: Vec::with_capacity(picked.len() * config.transform.len()),
        normalisation: config.transform.normalisation(),
        ..Batch::default()
    };
    for outcome in &picked {
        if let Ok(ready) = &**outcome {
            batch.push(ready);
        }
    }
    let mut state = shared.lock();
    state.outcomes = state.outcomes.split_off(&end);
    Ok(Some(batch))
}

/// The first decodable sample from number `next` on that the batch does not hold yet; `None` if the epoch ends
/// before.
///
/// # Errors
/// If a whole round has none: then the data hold less than a batch.
fn substitute(
    config: &LoaderConfig,
    shared: &Shared,
    picked: &[Outcome],
    next: &mut u64,
) -> Result<Option<Outcome>> {
    let held = |identity| {
        picked
            .iter()
            .any(|p| matches!(&**p, Ok(r) if r.identity == identity))
    };
    let rounds_before = shared.lock().rounds.len();
    while let Some(found) = outcome(shared, *next)? {
        *next += 1;
        if matches!(&*found, Ok(ready) if !held(ready.identity)) {
            return Ok(Some(found));
        }
        let state = shared.lock();
        if state.rounds.len() > rounds_before + 2 {
            return Err(too_few(config, picked.len() as u64, state.skips.clone()));
        }
    }
    Ok(None)
}

fn widen(shared: &Shared, window: u64) {
    let mut state = shared.lock();
    if state.window < window {
        state.window = window;
        shared.work.notify_all();
    }
}

/// Waits for the outcome of sample `number`; `None` if the epoch has fewer samples.
fn outcome(shared: &Shared, number: u64) -> Result<Option<Outcome>> {
    widen(shared, number.saturating_add(1));
    let mut state = shared.lock();
    loop {
        if let Some(outcome) = state.outcomes.get(&number) {
            return Ok(Some(outcome.clone()));
        }
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        if state.stop || state.total.is_some_and(|total| number >= total) {
            return Ok(None);
        }
        state = Shared::wait(&shared.done, state);
    }
}
