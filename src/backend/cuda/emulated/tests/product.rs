//! Matrix products against the formula.

use super::*;
use crate::backend::gpu::device::Matrix;
use crate::tensor::DType;
use half::bf16;

/// Elements of a test matrix, exact in bf16, stored with `stride` in `dtype`.
fn stored(
    device: &Emulated,
    rows: usize,
    stride: usize,
    dtype: DType,
    seed: u64,
) -> (Address, Vec<f32>) {
    let values = numbers(rows * stride, seed);
    let at = match dtype {
        DType::BF16 => {
            let low: Vec<_> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            upload(device, &low)
        }
        _ => upload(device, &values),
    };
    (at, values)
}

fn check(
    shape: [usize; 3],
    transposed: [bool; 2],
    inputs: DType,
    output: DType,
    with_c: bool,
    with_bias: bool,
) {
    let [m, n, k] = shape;
    let device = device(0, 2);
    let [ta, tb] = transposed;
    let sides = |rows, columns, transposed: bool| {
        if transposed {
            (columns, rows)
        } else {
            (rows, columns)
        }
    };
    let operand = |rows, columns, transposed, seed| {
        let (stored_rows, stored_columns) = sides(rows, columns, transposed);
        let stride = stored_columns + 3;
        let (at, values) = stored(&device, stored_rows, stride, inputs, seed);
        let matrix = Matrix {
            at,
            dtype: inputs,
            stride,
            transposed,
        };
        (matrix, move |r: usize, c: usize| {
            let (r, c) = if transposed { (c, r) } else { (r, c) };
            values[r * stride + c]
        })
    };
    let (a, a_of) = operand(m, k, ta, 1);
    let (b, b_of) = operand(k, n, tb, 2);
    let (c_at, c_values) = stored(&device, m, n + 1, output, 3);
    let (bias_at, bias) = stored(&device, 1, n, output, 4);
    let c = Matrix {
        at: c_at,
        dtype: output,
        stride: n + 1,
        transposed: false,
    };
    let d = Matrix {
        at: if with_c {
            c_at
        } else {
            device.allocate(m * (n + 1) * output.size()).unwrap()
        },
        ..c
    };
    device
        .product(&Product {
            m,
            n,
            k,
            a,
            b,
            c: with_c.then_some(c),
            d,
            bias: with_bias.then_some(bias_at),
            activation: None,
        })
        .unwrap();
    let got: Vec<f32> = match output {
        DType::BF16 => download::<bf16>(&device, d.at, m * (n + 1))
            .into_iter()
            .map(bf16::to_f32)
            .collect(),
        _ => download(&device, d.at, m * (n + 1)),
    };
    for r in 0..m {
        for j in 0..n {
            // Exact: all numbers are sixteenths.
            let mut want: f32 = (0..k).map(|p| a_of(r, p) * b_of(p, j)).sum();
            want += if with_bias { bias[j] } else { 0.0 };
            want += if with_c {
                c_values[r * (n + 1) + j]
            } else {
                0.0
            };
            if output == DType::BF16 {
                want = bf16::from_f32(want).to_f32();
            }
            assert_eq!(
                got[r * (n + 1) + j],
                want,
                "{shape:?} {transposed:?} row {r}, column {j}"
            );
        }
        let beyond = got[r * (n + 1) + n];
        let kept = if with_c {
            beyond == c_values[r * (n + 1) + n]
        } else {
            beyond.is_nan()
        };
        assert!(kept || r == m - 1, "bytes between rows are left alone");
    }
}

#[test]
fn every_kind_of_product() {
    for shape in [[1, 1, 1], [5, 17, 3], [33, 16, 40], [130, 70, 150]] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            check(shape, transposed, DType::F32, DType::F32, false, true);
            check(shape, transposed, DType::BF16, DType::BF16, true, true);
            check(shape, transposed, DType::BF16, DType::F32, true, false);
        }
    }
}

#[test]
fn products_outside_their_buffers_are_refused() {
    let device = device(0, 1);
    let x = device.allocate(4 * 12).unwrap();
    let matrix = Matrix {
        at: x,
        dtype: DType::F32,
        stride: 4,
        transposed: false,
    };
    let product = |m, d: Matrix| {
        device.product(&Product {
            m,
            n: 4,
            k: 3,
            a: Matrix {
                stride: 3,
                ..matrix
            },
            b: matrix,
            c: None,
            d,
            bias: None,
            activation: None,
        })
    };
    product(3, matrix).unwrap();
    assert!(matches!(product(4, matrix), Err(Error::Device { .. })));
    let at = x + 4;
    assert!(matches!(
        product(3, Matrix { at, ..matrix }),
        Err(Error::Device { .. })
    ));
    assert!(matches!(
        product(
            3,
            Matrix {
                stride: 3,
                ..matrix
            }
        ),
        Err(Error::Shape { .. })
    ));
    let other = Matrix {
        transposed: true,
        ..matrix
    };
    assert!(matches!(product(3, other), Err(Error::Shape { .. })));
}
