//! What lies between a launch and its dispatches.

use super::super::device::Wgpu;
use super::super::{Options, moves, product};
use crate::backend::contract::*;
use crate::backend::gpu::device::{Device, Launch};
use crate::backend::gpu::device::{Matrix, Product};
use crate::require::{Part, require};
use crate::tensor::DType;

fn device(options: &Options, checked: &str) -> Option<Wgpu> {
    require(Part::Wgpu, checked, Wgpu::open(options))
}

fn read(device: &Wgpu, at: u64, n: usize) -> Vec<u32> {
    let mut words = vec![0u32; n];
    device
        .download(at, bytemuck::cast_slice_mut(&mut words))
        .unwrap();
    words
}

/// A launch in one dispatch, in many parts, and in a grid that is folded, with numbers of either kind.
#[test]
fn every_workgroup_runs_once() {
    for immediates in [true, false] {
        let options = Options {
            immediates,
            ..Options::default()
        };
        let Some(device) = device(&options, "folded and divided grids") else {
            return;
        };
        let n = 70_000 * 256 + 77;
        let [from, to] = [(); 2].map(|()| device.allocate(4 * n).unwrap());
        let words: Vec<u32> = (0..n as u32)
            .map(|i| i.wrapping_mul(2_654_435_761))
            .collect();
        let input = device.allocate_input(4 * n).unwrap();
        device.upload(input, bytemuck::cast_slice(&words)).unwrap();
        let (kernel, spread, arguments) = moves::copy(input, from, 4 * n);
        device
            .launch(kernel, spread, bytemuck::bytes_of(&arguments))
            .unwrap();
        for (grid, work) in [
            ([70_001, 1, 1], 0),
            ([7, 5, 3], 0),
            ([70_001, 1, 1], 90_000_000_000),
            ([11, 1, 1], 1 << 50),
        ] {
            device.clear(to, 4 * n).unwrap();
            let launch = Launch {
                work,
                ..Launch::blocks(grid, 256)
            };
            let (kernel, _, arguments) = moves::copy(from, to, 4 * n);
            device
                .launch(kernel, launch, bytemuck::bytes_of(&arguments))
                .unwrap();
            // The kernel goes on by the grid's first side alone: more workgroups in the others copy the same.
            assert!(read(&device, to, n) == words, "{grid:?} {work}");
        }
    }
}

/// D += A B on `device`, by `run`, for integers whose sums f32 holds: to the bit.
fn check_product(
    device: &Wgpu,
    [m, n, k]: [usize; 3],
    run: impl Fn(&Product) -> crate::backend::Result<()>,
) {
    let values = |n: usize, seed: usize| -> Vec<f32> {
        (0..n).map(|i| (i * seed % 17) as f32 - 8.0).collect()
    };
    let (a, b, c) = (values(m * k, 5), values(k * n, 7), values(m * n, 11));
    let upload = |v: &[f32]| {
        let at = device.allocate_input(4 * v.len()).unwrap();
        device.upload(at, bytemuck::cast_slice(v)).unwrap();
        at
    };
    let matrix = |at, stride| Matrix {
        at,
        dtype: DType::F32,
        stride,
        transposed: false,
    };
    let (a_at, b_at, d_at) = (upload(&a), upload(&b), device.allocate(4 * m * n).unwrap());
    device.copy(upload(&c), d_at, 4 * m * n).unwrap();
    run(&Product {
        m,
        n,
        k,
        a: matrix(a_at, k),
        b: matrix(b_at, n),
        c: Some(matrix(d_at, n)),
        d: matrix(d_at, n),
        bias: None,
        activation: None,
    })
    .unwrap();
    let got = read(device, d_at, m * n);
    for i in 0..m {
        for j in 0..n {
            let want: f32 = c[i * n + j] + (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
            assert_eq!(f32::from_bits(got[i * n + j]), want, "{i} {j}");
        }
    }
}

/// A product of more than a dispatch may hold accumulates in place, so that a workgroup that ran twice would show.
#[test]
fn a_product_in_parts_adds_once() {
    let Some(device) = device(&Options::default(), "divided products") else {
        return;
    };
    check_product(&device, [300, 130, 70], |product| {
        let (kernel, launch, arguments) = product::launch(product, false)?;
        let launch = Launch {
            work: 1 << 40,
            ..launch
        };
        device.launch(kernel, launch, bytemuck::bytes_of(&arguments))
    });
}

/// Long sums of few elements, which several workgroups share.
#[test]
fn shared_sums_are_whole() {
    let Some(device) = device(&Options::default(), "shared sums") else {
        return;
    };
    for (size, parts) in [([20, 24, 3001], 5), ([65, 3, 1024], 2), ([64, 64, 1500], 2)] {
        check_product(&device, size, |product| {
            assert_eq!(product::parts(product), parts, "{size:?}");
            device.product(product)
        });
    }
}

/// Infinities and NaN, which WGSL may assume away, stay visible in what a run reads: sums, norms and losses.
#[test]
fn nan_and_infinities_show() {
    let gpu = super::super::open(&Options::default());
    let Some(gpu) = require(Part::Wgpu, "NaN and infinities", gpu) else {
        return;
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.5; 1000];
        values[777] = bad;
        let x = gpu.upload(&[1000], &values).unwrap();
        let finite =
            |t: &crate::tensor::Tensor| gpu.download(t).unwrap().iter().all(|v| v.is_finite());
        assert!(!finite(&gpu.sum(&x, 1.0).unwrap()), "sum of {bad}");
        assert!(!finite(&gpu.grad_norm(&[&x]).unwrap()), "norm of {bad}");
        let zero = gpu.zeros(&[1000]).unwrap();
        assert!(!finite(&gpu.mse(&x, &zero).unwrap()), "mse of {bad}");
        if bad.is_nan() {
            assert!(!finite(&gpu.exp(&x).unwrap()), "exp of {bad}");
        }
        let rows = gpu.upload(&[10, 100], &values).unwrap();
        let (gamma, beta) = (
            gpu.upload(&[100], &[1.0; 100]).unwrap(),
            gpu.zeros(&[100]).unwrap(),
        );
        let y = gpu.layer_norm(&rows, &gamma, &beta, 1e-5).unwrap().y;
        let y = gpu.download(&y).unwrap();
        assert!(
            y[700..800].iter().all(|v| v.is_nan()),
            "layer_norm of {bad}"
        );
        assert!(
            y[..700].iter().all(|v| v.is_finite()),
            "layer_norm of {bad}: other rows"
        );
    }
}
