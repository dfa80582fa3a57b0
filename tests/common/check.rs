//! The one way in which operations are checked: forward and every gradient of every backend at
//! hand against the f64 oracle and its central differences.
#![allow(dead_code)] // each test crate uses a part

use crate::oracle::{Array, normal, numeric_gradients, worst_difference};
use crate::tolerance;
use clip_distill::autodiff::{self, Grads, Result, Tape, Var};
use clip_distill::backend::{Backend, Error, Op, cpu::Cpu, cuda, wgpu};
use clip_distill::tensor::DType;
use require::{NO_BF16, Part, require};
use std::sync::{Arc, OnceLock};

#[path = "require.rs"]
pub mod require;

/// Environment variable that leaves only these backends, by the names that checks print, with commas between them.
const TENANTS: &str = "CLIP_DISTILL_TENANTS";

/// A backend at hand.
#[derive(Clone)]
pub struct Tenant {
    pub backend: Arc<dyn Backend>,
    /// The type that it keeps activations in, if it is not f32.
    pub low: Option<DType>,
    /// What sets it apart from others of its backend; or empty.
    kind: &'static str,
}

impl Tenant {
    fn new(backend: impl Backend + 'static, low: Option<DType>, kind: &'static str) -> Self {
        let backend = Arc::new(backend);
        Self { backend, low, kind }
    }

    /// Whether it has `op` at all: for small operands.
    pub fn has(&self, op: Op) -> bool {
        self.backend.supports(op, DType::F32, &[1; 4])
    }

    /// For messages.
    pub fn name(&self) -> String {
        let precision = match self.low {
            Some(DType::F16) => " in f16",
            Some(_) => " in bf16",
            None => "",
        };
        format!("{}{}{precision}", self.backend.name(), self.kind)
    }

    /// An operation's tolerances: of its value, of a gradient.
    pub fn tolerances(&self) -> (f64, f64) {
        match self.low {
            None => (tolerance::FORWARD, tolerance::GRADIENT),
            Some(DType::F16) => (tolerance::FORWARD_F16, tolerance::GRADIENT_F16),
            Some(_) => (tolerance::FORWARD_BF16, tolerance::GRADIENT_BF16),
        }
    }
}

/// The CPU with mixed precision, for a test of `checked`.
pub fn cpu_bf16(checked: &str) -> Option<Arc<dyn Backend>> {
    let cpu = require(Part::CpuBf16, checked, Cpu::bf16().ok_or(NO_BF16))?;
    Some(Arc::new(cpu))
}

/// All that run here, found and printed once, with the kernels that each lacks.
pub fn tenants() -> &'static [Tenant] {
    static FOUND: OnceLock<Vec<Tenant>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = vec![Tenant::new(Cpu::new(), None, "")];
        for bf16 in [false, true] {
            let (checked, gpu) = match bf16 {
                false => ("operations in f32", Part::Cuda),
                true => ("operations in bf16", Part::CudaBf16),
            };
            let emulated = require(Part::Emulated, checked, cuda::emulated(bf16));
            let real = require(gpu, checked, cuda::open(0, bf16));
            let low = bf16.then_some(DType::BF16);
            let both = [emulated, real].into_iter().flatten();
            found.extend(both.map(|d| Tenant::new(d, low, "")));
        }
        for (part, f16, checked) in [
            (Part::Wgpu, false, "operations in WGSL in f32"),
            (Part::WgpuF16, true, "operations in WGSL in f16"),
        ] {
            let kinds = [
                (true, false, ""),
                (false, false, " without subgroups"),
                (false, true, " in two bindings a tensor"),
            ];
            // Slow, and the same text in either type.
            let kinds = if f16 { &kinds[..2] } else { &kinds[..] };
            for &(subgroups, halves, kind) in kinds {
                let options = wgpu::Options {
                    f16,
                    subgroups,
                    halves,
                    ..Default::default()
                };
                let gpu = require(part, checked, wgpu::open(&options));
                let low = f16.then_some(DType::F16);
                found.extend(gpu.map(|gpu| Tenant::new(gpu, low, kind)));
            }
        }
        if let Ok(only) = std::env::var(TENANTS) {
            found.retain(|t| only.split(',').any(|name| t.name() == name));
            assert!(!found.is_empty(), "{TENANTS}: there is no backend {only}");
        }
        for tenant in &found {
            let lacking = Op::ALL.iter().filter(|op| !tenant.has(**op));
            let lacking = lacking.map(|op| op.name()).collect::<Vec<_>>().join(", ");
            let lacking = match lacking.as_str() {
                "" => String::new(),
                names => format!("; not checked, as it lacks them: {names}"),
            };
            let describe = tenant.backend.describe();
            println!("checking backend {}: {describe}{lacking}", tenant.name());
        }
        found
    })
}

/// The operation of a check: the first word of its name.
fn operation(name: &str) -> Op {
    let word = name.split(' ').next().unwrap_or_default();
    Op::named(word).unwrap_or_else(|| panic!("{word} is not an operation"))
}

/// Those that have all of these operations.
pub fn tenants_with(operations: &[Op]) -> Vec<Tenant> {
    let has_all = |t: &&Tenant| operations.iter().all(|op| t.has(*op));
    tenants().iter().filter(has_all).cloned().collect()
}

/// The backends in f32 that have all of these operations.
pub fn backends(operations: &[Op]) -> Vec<Arc<dyn Backend>> {
    let tenants = tenants_with(operations)
        .into_iter()
        .filter(|t| t.low.is_none());
    tenants.map(|t| t.backend).collect()
}

/// Whether an operation failed since the backend does not have it for such operands.
fn is_unsupported(e: &autodiff::Error) -> bool {
    matches!(e, autodiff::Error::Backend(Error::Unsupported { .. }))
}

/// Checks `op` against `oracle` on `inputs`, and its gradients under a random upstream gradient, on every backend at
/// hand that promises it for the shape of its first input; one that denies it must answer [`Error::Unsupported`].
pub fn check(
    name: &str,
    inputs: &[Array],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: impl Fn(&[Array]) -> Array,
) {
    check_shape(name, &inputs[0].shape, inputs, op, oracle);
}

/// As [`check`], where the promise is about another shape; see [`Op`].
pub fn check_shape(
    name: &str,
    shape: &[usize],
    inputs: &[Array],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: impl Fn(&[Array]) -> Array,
) {
    let promised = |t: &Tenant| t.backend.supports(operation(name), DType::F32, shape);
    let (able, unable): (Vec<_>, Vec<_>) = tenants().iter().cloned().partition(promised);
    for tenant in unable {
        let backend = &tenant.backend;
        let tape = Tape::new(backend.clone());
        let upload = |a: &Array| tape.leaf(backend.upload(&a.shape, &a.to_f32()).expect("upload"));
        let vars: Vec<Var> = inputs.iter().map(upload).collect();
        match op(&tape, &vars) {
            Err(e) => assert!(is_unsupported(&e), "{name} on {}: {e}", tenant.name()),
            Ok(_) => panic!(
                "{name} {shape:?} runs on {}, which denies it",
                tenant.name()
            ),
        }
    }
    let (mixed, single): (Vec<_>, Vec<_>) = able.into_iter().partition(|t| t.low.is_some());
    check_tenants(&single, name, inputs, &op, &oracle);
    let inputs: Vec<Array> = inputs.iter().map(coarse).collect();
    check_tenants(&mixed, name, &inputs, &op, &oracle);
}

/// As [`check`], on one backend that keeps activations in f32. The upstream gradient holds bf16 numbers, so that a
/// backend whose products are in bf16 gets it as it is.
pub fn check_on(
    backend: &Arc<dyn Backend>,
    name: &str,
    inputs: &[Array],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: impl Fn(&[Array]) -> Array,
) {
    let tenant = Tenant {
        backend: backend.clone(),
        low: None,
        kind: "",
    };
    check_tenants(&[tenant], name, inputs, &op, &oracle);
}

fn check_tenants(
    tenants: &[Tenant],
    name: &str,
    inputs: &[Array],
    op: &impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: &impl Fn(&[Array]) -> Array,
) {
    if tenants.is_empty() {
        return;
    }
    // What the device gets is f32: the oracle must start from the same numbers.
    let inputs: Vec<Array> = inputs
        .iter()
        .map(|a| Array::from_f32(&a.shape, &a.to_f32()))
        .collect();
    let want = oracle(&inputs);
    let upstream = coarse(&normal(&want.shape, 99));
    let gradients = numeric_gradients(&inputs, oracle, &upstream);
    for tenant in tenants {
        let (forward, gradient) = tenant.tolerances();
        let backend = &tenant.backend;
        let tape = Tape::new(backend.clone());
        let vars: Vec<Var> = inputs
            .iter()
            .map(|a| tape.leaf(backend.upload(&a.shape, &a.to_f32()).expect("upload")))
            .collect();
        let out = op(&tape, &vars).unwrap_or_else(|e| panic!("{name} on {}: {e}", tenant.name()));
        let compare = |what: String, got: &[f32], want: &Array, tolerance: f64| {
            let got = Array::from_f32(&want.shape, got);
            let error = worst_difference(&got, want);
            assert!(
                error <= tolerance,
                "{name} on {}: {what} off by {error:e}, allowed {tolerance:e}",
                tenant.name()
            );
        };
        let got = backend.download(out.value()).expect("download");
        compare("forward".into(), &got, &want, forward);
        let seed = backend
            .upload(out.shape(), &upstream.to_f32())
            .expect("upload");
        let compare_gradients = |grads: &Grads, times: f64| {
            for (i, (var, want)) in vars.iter().zip(&gradients).enumerate() {
                let grad = grads
                    .get(var)
                    .unwrap_or_else(|| panic!("{name}: no gradient {i}"));
                let got = backend.download(grad).expect("download");
                let mut want = want.clone();
                want.data.iter_mut().for_each(|v| *v *= times);
                compare(
                    format!("{times} × gradient {i}"),
                    &got,
                    &want,
                    times * gradient,
                );
            }
        };
        let failed = |e| panic!("{name} on {}: backward: {e}", tenant.name());
        let seeds = [(&out, seed.clone())];
        let grads = tape.backward_from(&seeds).unwrap_or_else(failed);
        compare_gradients(&grads, 1.0);
        // Once more, onto what is in the slots now.
        let again = op(&tape, &vars).expect("the same operation again");
        let seeds = [(&again, seed)];
        let grads = tape.backward_onto(grads, &seeds).unwrap_or_else(failed);
        compare_gradients(&grads, 2.0);
    }
}

/// The values rounded to bf16.
pub fn coarse(a: &Array) -> Array {
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    let values: Vec<f32> = a.to_f32().into_iter().map(round).collect();
    Array::from_f32(&a.shape, &values)
}
