//! A synchronisation taken out gives wrong numbers, whatever the order; with all of them, the same bits.

use super::*;

const N: usize = 64;
const SEEDS: std::ops::Range<u64> = 0..8;

fn launch(device: &Emulated, entry: &'static str, launch: Launch, arguments: &[u8]) {
    let kernel = Kernel {
        module: "races",
        entry,
    };
    device.launch(kernel, launch, arguments).unwrap();
}

/// The tiled product of `races.cu`, in the order of `seed`.
fn tiled(entry: &'static str, seed: u64) -> Vec<f32> {
    let device = device(seed, 2);
    let (a, b) = (
        upload(&device, &numbers(N * N, 1)),
        upload(&device, &numbers(N * N, 2)),
    );
    let c = device.allocate(N * N * 4).unwrap();
    launch(
        &device,
        entry,
        grid([4, 4, 1], 256),
        &arguments(&[a, b, c], &[N as i32]),
    );
    download(&device, c, N * N)
}

#[test]
fn a_removed_barrier_gives_a_wrong_product() {
    let (a, b) = (numbers(N * N, 1), numbers(N * N, 2));
    let element = |i| (0..N).map(|k| a[i / N * N + k] * b[k * N + i % N]).sum();
    let want: Vec<f32> = (0..N * N).map(element).collect();
    for seed in SEEDS {
        assert_eq!(tiled("product_whole", seed), want, "seed {seed}");
        assert_ne!(tiled("product_without_first", seed), want, "seed {seed}");
        assert_ne!(tiled("product_without_second", seed), want, "seed {seed}");
    }
}

/// The pipelined copy of `races.cu`.
fn pipelined(entry: &'static str, seed: u64) -> Vec<f32> {
    const TILES: usize = 5;
    let device = device(seed, 1);
    let x = upload(&device, &numbers(TILES * 512, 1));
    let y = device.allocate(TILES * 128 * 4).unwrap();
    let shape = Launch {
        grid: [1, 1, 1],
        block: 128,
        shared: 4096,
        work: 0,
    };
    launch(&device, entry, shape, &arguments(&[x, y], &[TILES as i32]));
    download(&device, y, TILES * 128)
}

#[test]
fn a_wait_for_too_few_copies_shows() {
    let x = numbers(5 * 512, 1);
    let sum = |i: usize| {
        (0..4)
            .map(|j| x[i / 128 * 512 + (4 * (i % 128) + 4 + j) % 512])
            .sum()
    };
    let want: Vec<f32> = (0..5 * 128).map(sum).collect();
    for seed in SEEDS {
        assert_eq!(pipelined("pipeline_whole", seed), want, "seed {seed}");
        assert!(
            pipelined("pipeline_waits_for_too_few", seed)
                .iter()
                .any(|v| v.is_nan())
        );
        assert_ne!(
            pipelined("pipeline_without_barrier", seed),
            want,
            "seed {seed}"
        );
    }
}

/// A warp that is ahead overwrites what the others have yet to read.
#[test]
fn shared_memory_that_is_used_again_too_early_shows() {
    const BLOCKS: usize = 20;
    let x = numbers(BLOCKS * 256, 3);
    let sums = |entry, seed| {
        let device = device(seed, 1);
        let (x, y) = (upload(&device, &x), device.allocate(BLOCKS * 1024).unwrap());
        let shape = grid([BLOCKS as u32, 1, 1], 256);
        launch(&device, entry, shape, &arguments(&[x, y], &[256i32]));
        download::<f32>(&device, y, BLOCKS * 256)
    };
    let of_row = |row: &[f32]| vec![row.iter().map(|v| v + v * v).sum(); 256];
    let want: Vec<f32> = x.chunks(256).flat_map(of_row).collect();
    for seed in SEEDS {
        assert_eq!(sums("two_sums_whole", seed), want, "seed {seed}");
        assert_ne!(sums("two_sums_without_second", seed), want, "seed {seed}");
    }
}

#[test]
fn copies_are_filled_up_with_zeros() {
    let device = device(0, 1);
    let x = upload(&device, &[1f32, 2.0, 3.0, 4.0]);
    let y = device.allocate(16).unwrap();
    for (valid, want) in [
        (16, [1.0, 2.0, 3.0, 4.0]),
        (8, [1.0, 2.0, 0.0, 0.0]),
        (0, [0.0; 4]),
    ] {
        launch(
            &device,
            "copies_with_zeros",
            grid([1, 1, 1], 1),
            &arguments(&[x, y], &[valid]),
        );
        assert_eq!(download::<f32>(&device, y, 4), want);
    }
}

#[test]
fn order_and_workers_change_no_bit() {
    let x = numbers(40 * 1000, 5)
        .iter()
        .map(|v| v / 3.0)
        .collect::<Vec<_>>();
    let sums = |seed, workers| {
        let device = device(seed, workers);
        let (x, y) = (upload(&device, &x), device.allocate(160).unwrap());
        launch(
            &device,
            "row_sums",
            grid([40, 1, 1], 256),
            &arguments(&[x, y], &[1000]),
        );
        download::<u32>(&device, y, 40)
    };
    let first = sums(0, 1);
    for seed in SEEDS {
        for workers in [1, 2, 3] {
            assert_eq!(sums(seed, workers), first, "seed {seed}, {workers} workers");
        }
    }
}

/// The registers of `races.cu`'s ldmatrix.
fn registers(entry: &'static str, seed: u64) -> Vec<f32> {
    let device = device(seed, 1);
    let x = upload(&device, &numbers(128, 1));
    let y = device.allocate(128 * 4).unwrap();
    launch(
        &device,
        entry,
        grid([1, 1, 1], 32),
        &arguments(&[x, y], &[]),
    );
    download(&device, y, 128)
}

#[test]
fn matrices_that_other_lanes_still_write_show() {
    let x = numbers(128, 1);
    // Register j of lane l: word l % 4 of row l / 4 of matrix j.
    let word = |i: usize| x[(8 * (i % 4) + i / 16) * 4 + i / 4 % 4];
    let want: Vec<f32> = (0..128).map(word).collect();
    for seed in SEEDS {
        assert_eq!(registers("matrices_whole", seed), want, "seed {seed}");
        let got = registers("matrices_without_syncwarp", seed);
        assert_ne!(got, want, "seed {seed}");
    }
}
