//! The recorder before a device of plain memory, against the same device alone.

use super::*;
use crate::tensor::rng::{Philox, Purpose};
use proptest::prelude::*;
use std::collections::VecDeque;

/// A device that can do nothing but move memory, all of it at once.
#[derive(Debug)]
struct Plain {
    state: Mutex<Memory>,
    /// Bytes that can be had at a time.
    room: usize,
    captures: bool,
}

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    held: usize,
    /// By ticket, by piece.
    fetched: HashMap<u64, Vec<u8>>,
    pieces: HashMap<u64, Vec<Call>>,
    count: u64,
    waits: u64,
    /// Addresses of the calls that came one by one, and the pieces.
    log: Vec<String>,
    /// The same calls.
    ran: Vec<Call>,
    /// Copies of this many bytes fail.
    broken: usize,
}

/// Where the memory begins.
const BASE: u64 = 1 << 16;

impl Plain {
    fn new(room: usize, captures: bool) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self {
            state,
            room,
            captures,
        })
    }

    fn state(&self) -> MutexGuard<'_, Memory> {
        self.state.lock().unwrap()
    }
}

impl Memory {
    fn at(&mut self, at: Address, bytes: usize) -> &mut [u8] {
        let start = (at - BASE) as usize;
        &mut self.bytes[start..start + bytes]
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

impl Device for Plain {
    fn describe(&self) -> String {
        "plain memory".into()
    }

    fn low_type(&self) -> DType {
        DType::BF16
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let mut state = self.state();
        if state.held + bytes > self.room {
            return device_error("plain", "out of memory");
        }
        state.held += bytes;
        let at = BASE + state.bytes.len() as u64;
        let length = state.bytes.len() + bytes.next_multiple_of(256);
        state.bytes.resize(length, 0xaa);
        Ok(at)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut state = self.state();
        state.held -= bytes;
        state.at(at, bytes).fill(0x55);
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.state().at(to, from.len()).copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        let mut state = self.state();
        state.waits += 1;
        to.copy_from_slice(state.at(from, to.len()));
        Ok(())
    }

    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64> {
        let mut state = self.state();
        let mut all = Vec::new();
        for &(at, bytes) in parts {
            all.extend_from_slice(state.at(at, bytes));
        }
        let ticket = state.number();
        state.fetched.insert(ticket, all);
        Ok(ticket)
    }

    fn collect(&self, ticket: u64) -> Result<Vec<u8>> {
        Ok(self.state().fetched.remove(&ticket).expect("fetched"))
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        let mut state = self.state();
        state.ran.push(Call::Clear(at, bytes));
        state.log.push(format!("clear {bytes}"));
        state.at(at, bytes).fill(0);
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        let mut state = self.state();
        if state.broken == bytes {
            return device_error("plain", "broken");
        }
        state.ran.push(Call::Copy(from, to, bytes));
        state.log.push(format!("copy {bytes}"));
        let values = state.at(from, bytes).to_vec();
        state.at(to, bytes).copy_from_slice(&values);
        Ok(())
    }

    fn launch(&self, kernel: Kernel, _: Launch, _: &[u8]) -> Result<()> {
        device_error("plain", kernel.entry)
    }

    fn product(&self, _: &Product) -> Result<()> {
        device_error("plain", "product")
    }

    fn synchronise(&self) -> Result<()> {
        self.state().waits += 1;
        Ok(())
    }

    fn waits(&self) -> u64 {
        self.state().waits
    }
}

impl Replay for Plain {
    fn capture(&self, calls: &[Call]) -> Result<u64> {
        if !self.captures {
            return device_error("plain", "no pieces");
        }
        let mut state = self.state();
        assert!(calls.iter().all(|call| state.ran.contains(call)));
        let piece = state.number();
        state.pieces.insert(piece, calls.to_vec());
        Ok(piece)
    }

    fn replay(&self, piece: u64) -> Result<()> {
        let calls = self.state().pieces.get(&piece).expect("captured").clone();
        let before = self.state().log.len();
        calls.iter().try_for_each(|call| call.run(self))?;
        let mut state = self.state();
        state.log.truncate(before);
        state.log.push(format!("piece of {}", calls.len()));
        Ok(())
    }

    fn discard(&self, piece: u64) {
        self.state().pieces.remove(&piece).expect("captured");
    }
}

/// What a program holds on a device, and what it has seen of it.
struct Program<'a> {
    device: &'a dyn Device,
    held: Vec<(Address, usize)>,
    tickets: VecDeque<u64>,
    seen: Vec<Vec<u8>>,
    /// Whether some work has fetched or waited before its end.
    interrupted: bool,
}

impl<'a> Program<'a> {
    fn on(device: &'a dyn Device) -> Self {
        Self {
            device,
            held: Vec::new(),
            tickets: VecDeque::new(),
            seen: Vec::new(),
            interrupted: false,
        }
    }

    fn upload(&mut self, bytes: &[u8]) {
        let at = self.device.allocate_input(bytes.len()).unwrap();
        self.device.upload(at, bytes).unwrap();
        self.held.push((at, bytes.len()));
    }

    fn clear(&mut self, bytes: usize) {
        let at = self.device.allocate(bytes).unwrap();
        self.device.clear(at, bytes).unwrap();
        self.held.push((at, bytes));
    }

    fn copy(&mut self, i: usize) {
        let (from, bytes) = self.held[i];
        let at = self.device.allocate(bytes).unwrap();
        self.device.copy(from, at, bytes).unwrap();
        self.held.push((at, bytes));
    }

    fn fetch(&mut self, i: usize) {
        let ticket = self.device.fetch(&[self.held[i]]).unwrap();
        self.tickets.push_back(ticket);
    }

    fn wait(&mut self) {
        if let Some(ticket) = self.tickets.pop_front() {
            self.seen.push(self.device.collect(ticket).unwrap());
        }
    }

    fn free(&mut self, i: usize) {
        let (at, bytes) = self.held.swap_remove(i);
        self.device.free(at, bytes);
    }

    /// Something of a kind, which says all but the bytes sent: those are of `number`.
    fn work(&mut self, kind: u64, number: u64) {
        let kept = self.held.len();
        let mut draw = Philox::new(kind, Purpose::Test, 0, 0);
        let mut bytes = Philox::new(number, Purpose::Test, 1, kind);
        for _ in 0..5 + draw.below(40) {
            let size = 1 + draw.below(3000) as usize;
            let one = draw.below(self.held.len().max(1) as u32) as usize;
            match draw.below(100) {
                0..20 => {
                    let data: Vec<u8> = (0..size).map(|_| bytes.below(256) as u8).collect();
                    self.upload(&data);
                }
                20..40 => self.clear(size),
                40..75 if one < self.held.len() => self.copy(one),
                75..97 if one >= kept && one < self.held.len() => self.free(one),
                97..99 if one < self.held.len() => {
                    self.interrupted = true;
                    self.fetch(one);
                }
                99 => {
                    self.interrupted = true;
                    self.wait();
                }
                _ => {}
            }
        }
        // What is kept from one to the next is written in place.
        for i in 0..kept {
            let (to, room) = self.held[i];
            if let Some(&(from, bytes)) = self.held[kept..].iter().rev().find(|b| b.1 <= room) {
                self.device.copy(from, to, bytes).unwrap();
            }
        }
        (0..self.held.len()).for_each(|i| self.fetch(i));
        (kept..self.held.len()).rev().for_each(|i| self.free(i));
    }
}

/// What a program sees in the course of `works`: kinds, and whether they are steps.
fn run(device: &dyn Device, works: &[(u64, bool)]) -> Vec<Vec<u8>> {
    let mut program = Program::on(device);
    program.upload(&[7; 3000]);
    program.clear(500);
    for (number, &(kind, step)) in works.iter().enumerate() {
        if step {
            device.begin_step().unwrap();
        }
        program.work(kind, number as u64);
        if step {
            device.end_step().unwrap();
        }
        // As a log does: some steps late.
        while program.tickets.len() > 40 {
            program.wait();
        }
    }
    while !program.tickets.is_empty() {
        program.wait();
    }
    program.seen
}

const ROOM: usize = 1 << 30;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Steps of a few kinds in any order, with other work between: the host sees what it sees without a recorder.
    #[test]
    fn the_host_sees_the_same(kinds in any::<u64>(), works in prop::collection::vec((0u64..3, prop::bool::weighted(0.8)), 1..30)) {
        let works: Vec<(u64, bool)> = works.into_iter().map(|(k, step)| (kinds.wrapping_add(k), step)).collect();
        let alone = run(&*Plain::new(ROOM, true), &works);
        for captures in [true, false] {
            let recorder = Recorder::new(Plain::new(ROOM, captures));
            prop_assert_eq!(&run(&recorder, &works), &alone);
            prop_assert!(captures || recorder.replays() == 0);
        }
    }
}

/// Steps in whose middle nothing is fetched or waited for are replayed from their third time on at the latest: the
/// first may find other memory free.
#[test]
fn steps_without_waits_recur() {
    let mut recurring = 0;
    for kind in 0..40 {
        let recorder = Recorder::new(Plain::new(ROOM, true));
        let mut program = Program::on(&recorder);
        program.upload(&[7; 3000]);
        for number in 0..5 {
            recorder.begin_step().unwrap();
            program.work(kind, number);
            recorder.end_step().unwrap();
        }
        if !program.interrupted {
            recurring += 1;
            assert!(recorder.replays() >= 3, "kind {kind}");
        }
    }
    assert!(recurring >= 10, "{recurring} kinds without waits");
}

/// A step of copies, whose last copies `bytes`.
fn step(program: &mut Program, bytes: usize) {
    program.device.begin_step().unwrap();
    program.upload(&[3; 100]);
    program.copy(0);
    program.clear(bytes);
    program.copy(2);
    program.fetch(3);
    (0..4).rev().for_each(|i| program.free(i));
    program.device.end_step().unwrap();
}

#[test]
fn a_step_is_a_piece_from_its_second_time_on() {
    let plain = Plain::new(ROOM, true);
    let recorder = Recorder::new(plain.clone());
    let mut program = Program::on(&recorder);
    let mut log = |bytes: usize| {
        step(&mut program, bytes);
        std::mem::take(&mut plain.state().log)
    };
    let calls = |bytes: usize| {
        [
            "copy 100".into(),
            format!("clear {bytes}"),
            format!("copy {bytes}"),
        ]
        .to_vec()
    };
    let piece = vec!["piece of 3".to_string()];
    assert_eq!(log(200), calls(200));
    assert_eq!(log(200), piece);
    // It begins alike.
    assert_eq!(log(300), calls(300));
    assert_eq!(log(300), piece);
    assert_eq!(log(200), piece);
    assert_eq!(recorder.replays(), 3);
    assert_eq!(plain.waits(), 0);
    // Of many, the one unused for longest is forgotten.
    for bytes in 0..MOST - 1 {
        assert_eq!(log(1000 + 512 * bytes), calls(1000 + 512 * bytes));
    }
    assert_eq!(log(200), piece);
    assert_eq!(log(300), calls(300));
    assert_eq!(plain.state().pieces.len(), 1);
}

#[test]
fn waiting_in_a_step_makes_up_for_what_was_held_back() {
    let plain = Plain::new(ROOM, true);
    let recorder = Recorder::new(plain.clone());
    let at = recorder.allocate(64).unwrap();
    for round in 0..4 {
        recorder.begin_step().unwrap();
        recorder.clear(at, 64).unwrap();
        let mut seen = [1; 64];
        recorder.download(at, &mut seen).unwrap();
        assert_eq!(seen, [0; 64]);
        recorder.clear(at, 32).unwrap();
        recorder.end_step().unwrap();
        assert_eq!(plain.state().log.len(), 2 * (round + 1));
    }
    assert_eq!(recorder.replays(), 0);
    assert!(recorder.collect(77).is_err());
}

#[test]
fn memory_that_pieces_name_is_given_back_when_there_is_none_left() {
    let plain = Plain::new(100 << 20, true);
    let recorder = Recorder::new(plain.clone());
    let mut program = Program::on(&recorder);
    (0..3).for_each(|_| step(&mut program, 40 << 20));
    assert_eq!(recorder.replays(), 2);
    // Two blocks of 40 MiB leave no room.
    let at = recorder.allocate(90 << 20).unwrap();
    assert!(plain.state().pieces.is_empty());
    assert!(recorder.allocate(50 << 20).is_err());
    recorder.free(at, 90 << 20);
    step(&mut program, 200);
    drop(recorder);
    assert_eq!(plain.state().held, 0);
}

#[test]
fn what_failed_is_told_and_not_remembered() {
    let plain = Plain::new(ROOM, true);
    let recorder = Recorder::new(plain.clone());
    let at = recorder.allocate(1000).unwrap();
    let step = |last: usize| {
        recorder.begin_step()?;
        let asked = recorder
            .clear(at, 10)
            .and_then(|()| recorder.copy(at, at + 500, 66))
            .and_then(|()| recorder.clear(at, last));
        let fetched = recorder.fetch(&[(at, 10)])?;
        let ended = recorder.end_step();
        asked.and(ended).map(|()| fetched)
    };
    plain.state().broken = 66;
    for _ in 0..3 {
        step(20).unwrap_err();
    }
    assert_eq!(recorder.replays(), 0);
    plain.state().broken = 0;
    let coming = [(); 3].map(|()| step(20).unwrap());
    assert_eq!(recorder.replays(), 2);
    for ticket in coming {
        assert_eq!(recorder.collect(ticket).unwrap(), [0; 10]);
    }
    // It fails when what was held back is made up for: what comes after it was never asked for.
    plain.state().broken = 66;
    for _ in 0..3 {
        step(30).unwrap_err();
    }
    plain.state().broken = 0;
    plain.state().log.clear();
    step(30).unwrap();
    assert_eq!(plain.state().log, ["clear 10", "copy 66", "clear 30"]);
    // A step left open is made up for by the next.
    recorder.begin_step().unwrap();
    recorder.clear(at, 10).unwrap();
    plain.state().log.clear();
    recorder.begin_step().unwrap();
    assert_eq!(plain.state().log, ["clear 10"]);
    recorder.end_step().unwrap();
}

#[test]
fn no_memory_left_in_a_step_that_was_held_back() {
    let plain = Plain::new(100 << 20, true);
    let recorder = Recorder::new(plain.clone());
    let at = recorder.allocate(1000).unwrap();
    let begin = || {
        recorder.begin_step().unwrap();
        recorder.clear(at, 10).unwrap();
        let large = recorder.allocate(40 << 20).unwrap();
        recorder.copy(at, large, 10).unwrap();
        recorder.free(large, 40 << 20);
    };
    (0..3).for_each(|_| {
        begin();
        recorder.end_step().unwrap();
    });
    assert_eq!(recorder.replays(), 2);
    plain.state().log.clear();
    begin();
    let larger = recorder.allocate(80 << 20).unwrap();
    assert_eq!(plain.state().log, ["clear 10", "copy 10"]);
    assert!(plain.state().pieces.is_empty());
    recorder.copy(at, larger, 10).unwrap();
    recorder.end_step().unwrap();
    assert_eq!(recorder.replays(), 2);
}
