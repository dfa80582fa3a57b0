//! The emulator's own tests, with kernels written for them. Those of `faults.cu` go wrong, one each.

mod arguments;
mod collectives;
mod faults;
mod memory;
mod product;
mod races;

use super::*;

/// The tests' modules.
const MODULES: &[Module] = &[
    Module {
        name: "faults",
        source: include_str!("faults.cu"),
    },
    Module {
        name: "collectives",
        source: include_str!("collectives.cu"),
    },
    Module {
        name: "races",
        source: include_str!("races.cu"),
    },
];

/// The device, whose kernels run in the order of `seed` on `workers` threads.
fn device(seed: u64, workers: usize) -> Emulated {
    Emulated::new(MODULES, seed, false, workers).expect("a C++ compiler")
}

/// The device that looks at the zones after each step.
fn watching() -> Emulated {
    Emulated::new(MODULES, 0, true, 1).expect("a C++ compiler")
}

/// The bytes of a struct of addresses and then 32-bit integers.
fn arguments(addresses: &[Address], numbers: &[i32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = addresses.iter().flat_map(|a| a.to_ne_bytes()).collect();
    bytes.extend(numbers.iter().flat_map(|n| n.to_ne_bytes()));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn grid(grid: [u32; 3], block: u32) -> Launch {
    Launch {
        grid,
        block,
        shared: 0,
        work: 0,
    }
}

fn upload<T: bytemuck::Pod>(device: &dyn Device, values: &[T]) -> Address {
    let at = device.allocate(size_of_val(values)).expect("allocation");
    device
        .upload(at, bytemuck::cast_slice(values))
        .expect("upload");
    at
}

fn download<T: bytemuck::Pod>(device: &dyn Device, at: Address, count: usize) -> Vec<T> {
    let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); count];
    device
        .download(at, bytemuck::cast_slice_mut(&mut values))
        .expect("download");
    values
}

/// Small numbers with both signs, without a pattern that a wrong index keeps.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let draw = |i: usize| {
        let mixed = (i as u64 + 1000 * seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 40) % 64) as f32 / 16.0 - 2.0
    };
    (0..count).map(draw).collect()
}
