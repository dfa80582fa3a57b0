//! Matrix products of the real device, by cuBLASLt.
//!
//! cuBLASLt's matrices are column-major, so a row-major matrix is the transpose of what it sees. Hence
//! D = A B is put to it as Dᵀ = Bᵀ Aᵀ: its left operand is our B and its right one our A, each stored as it
//! wants them unless ours are transposed. Its bias runs along the rows of Dᵀ, which are D's columns, as ours does.
//!
//! An algorithm is chosen once for each kind of product: of those that cuBLASLt proposes, the fastest in a
//! trial. The choice is kept on disk, since another algorithm rounds otherwise, and a second run must give
//! the same bits.

use super::NAME;
use super::answer::check;
use super::api;
use super::cache;
use super::cublaslt::{Candidate, CublasLt, Operands, Owned, Parts, Workspace};
use super::device::{Address, Device, Product};
use crate::backend::{Error, Result, device_error};
use crate::tensor::DType;
use cudarc::cublaslt::sys;
use cudarc::driver::sys::{CUevent_flags, CUstream};
use std::collections::HashMap;

/// Bytes of workspace: what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Algorithms that are tried.
const CANDIDATES: usize = 8;
/// Seconds of an algorithm's runs that are timed together: in a shorter span, launching them would dominate.
const SPAN: f32 = 1e-3;
/// The least and the most of these runs.
const RUNS: (f32, f32) = (3.0, 50.0);
/// Repetitions of a timing; the shortest counts.
const TIMES: usize = 3;
/// Share of the time of cuBLASLt's own choice by which another must be faster: less is noise.
const GAIN: f32 = 0.03;

/// All that distinguishes one kind of product from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    m: usize,
    n: usize,
    k: usize,
    operands: DType,
    result: DType,
    transposed: [bool; 2],
    /// Of A, B, C and D.
    strides: [usize; 4],
    /// Of A, B, C and D in bytes, at most 16: what vector accesses may rely on. D's covers the bias as well, for
    /// which cuBLASLt has no preference of its own.
    alignments: [u32; 4],
    add: bool,
    in_place: bool,
    bias: bool,
}

struct Plan {
    parts: Parts,
    candidate: Candidate,
}

/// cuBLASLt, and a plan for each kind of product met.
pub(super) struct Products {
    library: CublasLt,
    /// What a choice of algorithms depends on besides the kind.
    device: String,
    open: Option<(Owned, Address)>,
    plans: HashMap<Kind, Plan>,
}

impl Products {
    /// Finds the library, for a GPU of that name and a driver of that CUDA version.
    ///
    /// # Errors
    /// If it is missing.
    pub fn open(name: &str, driver: i32) -> Result<Self> {
        let library = CublasLt::open(driver)?;
        Ok(Self {
            device: format!("{name}, driver {driver}, cuBLASLt {}", library.version()),
            library,
            open: None,
            plans: HashMap::new(),
        })
    }

    /// Puts a product on `stream`, the one of `device`, whose context is current.
    pub fn run(&mut self, product: &Product, device: &dyn Device, stream: CUstream) -> Result<()> {
        let kind = Kind::of(product)?;
        if self.open.is_none() {
            self.open = Some((self.library.handle()?, device.allocate(WORKSPACE)?));
        }
        let Some((handle, workspace)) = &self.open else {
            return Ok(());
        };
        let bench = Bench {
            library: self.library,
            handle,
            workspace: Workspace {
                at: *workspace,
                bytes: WORKSPACE,
            },
            stream,
        };
        let named = |e| match e {
            Error::Device { device, detail } => Error::Device {
                device,
                detail: format!("{detail}, in a product {kind:?}"),
            },
            other => other,
        };
        if !self.plans.contains_key(&kind) {
            let plan = bench
                .plan(&kind, product, &self.device, device)
                .map_err(named)?;
            self.plans.insert(kind, plan);
        }
        let Some(plan) = self.plans.get(&kind) else {
            return Ok(());
        };
        if let Some(bias) = product.bias {
            bench.library.set(&plan.parts.product, BIAS_POINTER, bias)?;
        }
        bench
            .run(&plan.parts, &plan.candidate, operands(product))
            .map_err(named)
    }

    /// Gives everything back, the workspace in the order of `stream`, on which no product may be running; the context
    /// must be current.
    pub fn close(&mut self, stream: CUstream) {
        self.plans.clear();
        if let Some((handle, workspace)) = self.open.take() {
            drop(handle);
            // SAFETY: allocated by `run` on this stream.
            let _ = unsafe { api::memory_free(workspace, stream) };
        }
    }
}

const BIAS_POINTER: sys::cublasLtMatmulDescAttributes_t =
    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;

/// Where a product runs.
struct Bench<'a> {
    library: CublasLt,
    handle: &'a Owned,
    workspace: Workspace,
    stream: CUstream,
}

impl Bench<'_> {
    fn run(&self, parts: &Parts, candidate: &Candidate, operands: Operands) -> Result<()> {
        // SAFETY: the matrices are where `Product` says, guaranteed by the caller; the layouts are made from it.
        unsafe {
            self.library.run(
                self.handle,
                parts,
                &candidate.algorithm,
                operands,
                self.workspace,
                self.stream,
            )
        }
    }

    fn plan(&self, kind: &Kind, product: &Product, on: &str, device: &dyn Device) -> Result<Plan> {
        let parts = self.parts(kind, product)?;
        let [a, b, c, d] = kind.alignments;
        let candidates =
            self.library
                .candidates(self.handle, &parts, WORKSPACE, [b, a, c, d], CANDIDATES)?;
        let chosen = self.choose(kind, product, &parts, &candidates, on, device);
        Ok(Plan {
            parts,
            candidate: candidates[chosen.min(candidates.len() - 1)],
        })
    }

    fn parts(&self, kind: &Kind, product: &Product) -> Result<Parts> {
        use sys::cublasLtMatmulDescAttributes_t as D;
        let library = &self.library;
        let description = library.product()?;
        let views = kind.views();
        // cublasOperation_t: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        library.set(
            &description,
            D::CUBLASLT_MATMUL_DESC_TRANSA,
            u32::from(views[0].across),
        )?;
        library.set(
            &description,
            D::CUBLASLT_MATMUL_DESC_TRANSB,
            u32::from(views[1].across),
        )?;
        if let Some(bias) = product.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            library.set(&description, D::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            library.set(&description, BIAS_POINTER, bias)?;
        }
        let (operands, result) = (data_type(kind.operands)?, data_type(kind.result)?);
        let layout =
            |view: View, dtype| library.layout(dtype, view.rows, view.columns, view.stride);
        Ok(Parts {
            product: description,
            layouts: [
                layout(views[0], operands)?,
                layout(views[1], operands)?,
                layout(views[2], result)?,
                layout(views[3], result)?,
            ],
        })
    }

    /// Which candidate to take.
    fn choose(
        &self,
        kind: &Kind,
        product: &Product,
        parts: &Parts,
        candidates: &[Candidate],
        on: &str,
        device: &dyn Device,
    ) -> usize {
        if candidates.len() == 1 {
            return 0;
        }
        let name = cache::key([on, &format!("{kind:?}")]);
        let mut measured = None;
        let kept = cache::file("products", &name, |folder| {
            let best = self
                .fastest(kind, product, parts, candidates, device)
                .map_err(|e| e.to_string())?;
            measured = Some(best);
            let path = folder.join("new");
            std::fs::write(&path, best.to_string()).map_err(|e| e.to_string())?;
            Ok(path)
        });
        let kept = kept
            .ok()
            .and_then(|path| std::fs::read_to_string(path).ok());
        // Without a trial (no memory for it) the first: cuBLASLt's own choice.
        kept.and_then(|text| text.trim().parse().ok())
            .or(measured)
            .unwrap_or(0)
    }

    /// Tries all candidates on the operands, with a result of its own.
    fn fastest(
        &self,
        kind: &Kind,
        product: &Product,
        parts: &Parts,
        candidates: &[Candidate],
        device: &dyn Device,
    ) -> Result<usize> {
        let bytes = (kind.m * kind.strides[3]) * kind.result.size();
        let scratch = device.allocate(bytes)?;
        let mut operands = operands(product);
        if kind.in_place || !kind.add {
            operands.at[2] = scratch;
        }
        operands.at[3] = scratch;
        let best = self.race(parts, candidates, operands);
        device.free(scratch, bytes);
        best
    }

    fn race(&self, parts: &Parts, candidates: &[Candidate], operands: Operands) -> Result<usize> {
        let event = || api::event(CUevent_flags::CU_EVENT_DEFAULT).map(Event);
        let (start, end) = (event()?, event()?);
        let span = |candidate: &Candidate, runs: f32| -> Result<f32> {
            start.record(self.stream)?;
            for _ in 0..runs as usize {
                self.run(parts, candidate, operands)?;
            }
            end.record(self.stream)?;
            // SAFETY: both were recorded, and `end` is waited for first.
            let milliseconds = unsafe {
                check("trial of a product", api::event_synchronize(end.0))?;
                let elapsed = api::written(0.0, |time| api::event_elapsed(time, start.0, end.0));
                check("trial of a product", elapsed)?
            };
            Ok(1e-3 * milliseconds / runs)
        };
        let time = |candidate: &Candidate| -> Result<f32> {
            span(candidate, 1.0)?;
            let runs = (SPAN / span(candidate, 1.0)?).clamp(RUNS.0, RUNS.1).floor();
            let mut times = (0..TIMES).map(|_| span(candidate, runs));
            times.try_fold(f32::INFINITY, |least, t| Ok(least.min(t?)))
        };
        let times: Vec<Result<f32>> = candidates.iter().map(time).collect();
        let first = times.first().and_then(|t| t.as_ref().ok().copied());
        // A candidate that fails is dropped.
        let of = |i: usize| times[i].as_ref().copied().unwrap_or(f32::INFINITY);
        let best = (0..times.len()).min_by(|&i, &j| of(i).total_cmp(&of(j)));
        match (best, first) {
            (Some(best), Some(first)) if of(best) > (1.0 - GAIN) * first => Ok(0),
            (Some(best), _) if of(best).is_finite() => Ok(best),
            _ => match times.into_iter().find_map(Result::err) {
                Some(error) => Err(error),
                None => device_error(NAME, "none of cuBLASLt's algorithms could be timed"),
            },
        }
    }
}

struct Event(cudarc::driver::sys::CUevent);

impl Event {
    fn record(&self, stream: CUstream) -> Result<()> {
        // SAFETY: event and stream are alive.
        check("cuEventRecord", unsafe {
            api::event_record(self.0, stream)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { api::event_destroy(self.0) };
    }
}

impl Kind {
    fn of(p: &Product) -> Result<Self> {
        let c = p.c.unwrap_or(p.d);
        if p.a.dtype != p.b.dtype || c.dtype != p.d.dtype || c.transposed || p.d.transposed {
            return device_error(NAME, format!("no product takes such operands: {p:?}"));
        }
        Ok(Self {
            m: p.m,
            n: p.n,
            k: p.k,
            operands: p.a.dtype,
            result: p.d.dtype,
            transposed: [p.a.transposed, p.b.transposed],
            strides: [p.a, p.b, c, p.d].map(|x| x.stride),
            alignments: [p.a.at, p.b.at, c.at, p.d.at | p.bias.unwrap_or(0)].map(alignment),
            add: p.c.is_some(),
            in_place: c.at == p.d.at,
            bias: p.bias.is_some(),
        })
    }
}

/// A matrix as cuBLASLt sees it: column-major as stored, and whether it is to be read across.
#[derive(Clone, Copy)]
struct View {
    rows: usize,
    columns: usize,
    stride: usize,
    across: bool,
}

impl Kind {
    /// The operands in cuBLASLt's order: B, A, C, D.
    fn views(&self) -> [View; 4] {
        let Self {
            m, n, k, strides, ..
        } = *self;
        // An r × c matrix that is stored row-major is, column-major, c × r; one of which the transpose is stored is
        // r × c as stored, and transposed.
        let view = |rows, columns, stride, across| match across {
            false => View {
                rows: columns,
                columns: rows,
                stride,
                across,
            },
            true => View {
                rows,
                columns,
                stride,
                across,
            },
        };
        [
            view(k, n, strides[1], self.transposed[1]),
            view(m, k, strides[0], self.transposed[0]),
            view(m, n, strides[2], false),
            view(m, n, strides[3], false),
        ]
    }
}

/// Addresses in cuBLASLt's order: B and A change places.
fn operands(p: &Product) -> Operands {
    let (c, beta) = match p.c {
        Some(c) => (c.at, 1.0),
        None => (p.d.at, 0.0),
    };
    Operands {
        at: [p.b.at, p.a.at, c, p.d.at],
        beta,
    }
}

/// The power of two, at most 16, that divides an address.
fn alignment(at: Address) -> u32 {
    1 << at.trailing_zeros().min(4)
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        other => device_error(NAME, format!("no product takes {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cuBLASLt makes of column-major matrices.
    fn column_major(views: &[View; 4], left: &[f32], right: &[f32], d: &mut [f32], k: usize) {
        let at = |x: &[f32], v: View, i: usize, j: usize| match v.across {
            false => {
                assert!(i < v.rows && j < v.columns);
                x[i + j * v.stride]
            }
            true => {
                assert!(j < v.rows && i < v.columns);
                x[j + i * v.stride]
            }
        };
        for i in 0..views[3].rows {
            for j in 0..views[3].columns {
                d[i + j * views[3].stride] = (0..k)
                    .map(|l| at(left, views[0], i, l) * at(right, views[1], l, j))
                    .sum();
            }
        }
    }

    #[test]
    fn row_major_products_are_what_the_column_major_ones_give() {
        let (m, n, k) = (3, 5, 4);
        for (across_a, across_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let stride = |width: usize, pad: usize| width + pad;
            let strides = [
                stride(if across_a { m } else { k }, 2),
                stride(if across_b { k } else { n }, 1),
                stride(n, 0),
                stride(n, 3),
            ];
            let kind = Kind {
                m,
                n,
                k,
                operands: DType::F32,
                result: DType::F32,
                transposed: [across_a, across_b],
                strides,
                alignments: [16; 4],
                add: false,
                in_place: true,
                bias: false,
            };
            let values = |len: usize, step: usize| -> Vec<f32> {
                (0..len).map(|i| (i * step % 11) as f32 - 5.0).collect()
            };
            let (a, b) = (values(64, 3), values(64, 7));
            let mut d = vec![0.0; m * strides[3]];
            column_major(&kind.views(), &b, &a, &mut d, k);
            for i in 0..m {
                for j in 0..n {
                    let a_at = |l: usize| match across_a {
                        false => a[i * strides[0] + l],
                        true => a[l * strides[0] + i],
                    };
                    let b_at = |l: usize| match across_b {
                        false => b[l * strides[1] + j],
                        true => b[j * strides[1] + l],
                    };
                    let want: f32 = (0..k).map(|l| a_at(l) * b_at(l)).sum();
                    assert_eq!(d[i * strides[3] + j], want, "{across_a} {across_b} {i} {j}");
                }
            }
        }
    }
}
