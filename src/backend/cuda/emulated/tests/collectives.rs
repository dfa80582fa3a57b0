//! Collectives against what CUDA's and PTX's manuals say they give.

use super::*;

fn run(entry: &'static str, launch: Launch, count: usize) -> Vec<u32> {
    let device = device(3, 2);
    let out = device.allocate(count * 4).unwrap();
    let kernel = Kernel {
        module: "collectives",
        entry,
    };
    device
        .launch(kernel, launch, &arguments(&[out], &[]))
        .unwrap();
    download(&device, out, count)
}

#[test]
fn shuffles_and_votes() {
    let got = run("shuffles", grid([1, 1, 1], 64), 640);
    for t in 0..64u32 {
        let (lane, warp) = (t % 32, t / 32 * 32);
        let value = |lane: u32| 100 + warp + lane;
        let every_third = (0..32)
            .filter(|l| (warp + l) % 3 == 0)
            .fold(0, |m, l| m | 1 << l);
        let want = [
            value(5),
            value(lane / 8 * 8 + (t + 1) % 8),
            value(lane ^ 3),
            value(if lane >= 3 { lane - 3 } else { lane }),
            value(if lane + 3 < 32 { lane + 3 } else { lane }),
            value(if lane % 16 + 3 < 16 { lane + 3 } else { lane }),
            every_third,
            u32::from(warp == 32),
            u32::from(warp == 0),
            13,
        ];
        assert_eq!(got[10 * t as usize..][..10], want, "thread {t}");
    }
}

#[test]
fn matrices_from_shared_memory() {
    let got = run("ldmatrices", grid([1, 1, 1], 32), 8 * 32);
    let element = |j: u32, row: u32, column: u32| 64 * j + 8 * row + column;
    for l in 0..32u32 {
        let (g, t) = (l / 4, 2 * (l % 4));
        let plain = |j| element(j, g, t) | element(j, g, t + 1) << 16;
        let transposed = |j| element(j, t, g) | element(j, t + 1, g) << 16;
        let want = [[0, 1, 2, 3].map(plain), [0, 1, 2, 3].map(transposed)].concat();
        assert_eq!(got[8 * l as usize..][..8], want, "lane {l}");
    }
}

#[test]
fn indices_of_blocks_and_threads() {
    let [x, y, z] = [3, 2, 4u32];
    let got = run("indices", grid([x, y, z], 5), (x * y * z * 5 * 4) as usize);
    let mut want = Vec::new();
    for (z, y, x) in (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| (z, y, x)))) {
        want.extend((0..5).flat_map(|t| [x, y, z, t]));
    }
    assert_eq!(got, want);
}

/// d + a b by plain loops against the tensor core's, for 16 × 16 and 16 × 8 numbers that bf16 holds exactly.
#[test]
fn tensor_core_bf16() {
    let k = 16;
    let device = device(1, 1);
    let (a, b, d) = (numbers(16 * k, 1), numbers(8 * k, 2), numbers(128, 3));
    let [at, bt, dt] = [&a, &b, &d].map(|v| upload(&device, v));
    let kernel = Kernel {
        module: "collectives",
        entry: "mma_bf16",
    };
    device
        .launch(kernel, grid([1, 1, 1], 32), &arguments(&[at, bt, dt], &[]))
        .unwrap();
    let got = download::<f32>(&device, dt, 128);
    for (i, got) in got.iter().enumerate() {
        let (row, column) = (i / 8, i % 8);
        let sum: f32 = (0..k).map(|p| a[row * k + p] * b[p * 8 + column]).sum();
        assert_eq!(*got, d[i] + sum, "row {row}, column {column}");
    }
}
