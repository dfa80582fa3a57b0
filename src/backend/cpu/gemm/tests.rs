use super::*;
use crate::require::{NO_BF16, Part, require};

fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed;
    std::iter::repeat_with(|| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(n)
    .collect()
}

/// As [`values`], each exactly a bf16: the conversion must not change it.
fn coarse(n: usize, seed: u32) -> Vec<f32> {
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    values(n, seed).into_iter().map(round).collect()
}

fn all_products() -> Vec<Products> {
    let bf16 = bf16_available().then_some(Products::Bf16);
    let bf16 = require(Part::CpuBf16, "products in bf16", bf16.ok_or(NO_BF16));
    [Some(Products::F32), bf16].into_iter().flatten().collect()
}

/// Every way to read the operands, at sizes around the kernel's and the blocks' edges, against
/// f64: each product's relative error is at most (k + 2) ε, of numbers that bf16 can hold in bf16 too.
#[test]
fn equals_the_definition_at_every_edge() {
    let sizes = [
        (1, 1, 1),
        (6, 64, 256),
        (7, 65, 257),
        (5, 15, 3),
        (197, 197, 64),
        (13, 128, 513),
        (200, 33, 300),
        (193, 385, 40),
        (193, 800, 3),
        (3, 500, 1),
        (2, 3, 0),
        (70, 129, 70),
        (9, 40, 1025),
    ]; // fmt: skip
    for (m, n, k) in sizes {
        let (a, b, start) = (coarse(m * k, 1), coarse(k * n, 2), values(m * n, 3));
        for (a_t, b_t, add) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
            (true, true, false),
        ] {
            let va = if a_t {
                View::new(&a, k, m).t()
            } else {
                View::new(&a, m, k)
            };
            let vb = if b_t {
                View::new(&b, n, k).t()
            } else {
                View::new(&b, k, n)
            };
            let at_a =
                |i: usize, l: usize| f64::from(if a_t { a[l * m + i] } else { a[i * k + l] });
            let at_b =
                |l: usize, j: usize| f64::from(if b_t { b[j * k + l] } else { b[l * n + j] });
            let mut serial = start.clone();
            gemm_serial(&mut serial, add, 1.0, va, vb);
            for products in all_products() {
                let mut c = start.clone();
                gemm(products, &mut c, add, va, vb);
                if products == Products::F32 {
                    assert_eq!(serial, c, "{m} {n} {k}: tasks must not matter");
                }
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..k).map(|l| at_a(i, l) * at_b(l, j));
                        let (sum, size) = terms.fold((0.0, 0.0), |s, t| (s.0 + t, s.1 + t.abs()));
                        let old = if add {
                            f64::from(start[i * n + j])
                        } else {
                            0.0
                        };
                        let (got, want) = (f64::from(c[i * n + j]), sum + old);
                        let bound = (k + 2) as f64 * f64::from(f32::EPSILON) * (size + old.abs());
                        assert!(
                            (got - want).abs() <= bound,
                            "{products:?} {m} {n} {k} [{i}, {j}]: {got} for {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Panels of every processor's width, also of those without vectors.
#[test]
fn panels_hold_their_columns() {
    for (nr, cols, k) in [
        (1, 3, 5),
        (2, 5, 70),
        (8, 13, 64),
        (16, 33, 131),
        (64, 70, 9),
    ] {
        let b = values(cols * k, 6);
        for (view, at) in [
            (View::new(&b, k, cols), [cols, 1]),
            (View::new(&b, cols, k).t(), [1, k]),
        ] {
            for first in (0..cols).step_by(nr) {
                let mut panel = vec![f32::NAN; nr * k];
                pack_panel(view, first, nr, &mut panel);
                for step in 0..k {
                    for j in first..cols.min(first + nr) {
                        let want = b[step * at[0] + j * at[1]];
                        assert_eq!(panel[step * nr + j - first], want, "{nr} {cols} {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn strided_parts_and_factors() {
    // The middle columns of wider matrices, as attention's heads are.
    let (m, n, k, wide) = (11, 9, 7, 30);
    let (a, b) = (values(m * wide, 8), values(n * wide, 9));
    let mut c = vec![1.0; m * wide];
    let va = View::strided(&a[5..], m, k, wide);
    let vb = View::strided(&b[3..], n, k, wide).t();
    // SAFETY: `c` has m rows of `wide`, and columns 4 to 4 + n are among them.
    unsafe { gemm_raw(c[4..].as_mut_ptr(), wide, true, -0.5, va, vb) };
    for i in 0..m {
        for j in 0..wide {
            let dot = |j: usize| -> f32 {
                (0..k)
                    .map(|l| a[5 + i * wide + l] * b[3 + j * wide + l])
                    .sum()
            };
            let want = if (4..4 + n).contains(&j) {
                1.0 - 0.5 * dot(j - 4)
            } else {
                1.0
            };
            assert!((c[i * wide + j] - want).abs() < 1e-6, "[{i}, {j}]");
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_among_others() {
    let (m, n, k) = (50, 70, 600);
    let (a, b) = (values(m * k, 4), values(n * k, 5));
    for products in all_products() {
        let mut all = vec![0.0; m * n];
        gemm(
            products,
            &mut all,
            false,
            View::new(&a, m, k),
            View::new(&b, n, k).t(),
        );
        let mut one = vec![0.0; n];
        let row = View::new(&a[31 * k..32 * k], 1, k);
        gemm(products, &mut one, false, row, View::new(&b, n, k).t());
        assert_eq!(one, all[31 * n..32 * n]);
    }
}

#[test]
fn each_part_of_c_is_handed_on_once() {
    let (m, n, k) = (100, 200, 30);
    let (a, b) = (values(m * k, 6), values(k * n, 7));
    let (va, vb) = (View::new(&a, m, k), View::new(&b, k, n));
    for products in all_products() {
        let mut plain = vec![0.0; m * n];
        gemm(products, &mut plain, false, va, vb);
        let mut c = vec![0.0; m * n];
        gemm_then(products, &mut c, false, va, vb, |row, first, part| {
            for (j, x) in part.iter_mut().enumerate() {
                *x += (row * n + first + j) as f32;
            }
        });
        for (i, (x, p)) in c.iter().zip(plain).enumerate() {
            assert_eq!(*x, p + i as f32);
        }
    }
}

#[test]
fn rows_made_on_demand_give_the_bits_of_rows_in_memory() {
    for products in all_products() {
        for (m, n, k) in [(1, 1, 1), (500, 70, 600), (13, 5, 27), (4, 3, 0)] {
            let (a, b) = (values(m * k, 8), values(n * k, 9));
            let vb = View::new(&b, n, k).t();
            let mut whole = vec![0.0; m * n];
            gemm(products, &mut whole, false, View::new(&a, m, k), vb);
            let mut made = vec![7.0; m * n];
            gemm_from(products, &mut made, m, vb, |rows, out| {
                out.copy_from_slice(&a[rows.start * k..rows.end * k]);
            });
            assert_eq!(whole, made);
        }
    }
}
