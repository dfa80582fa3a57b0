//! The one way in which operations are checked: forward and every gradient of every backend at
//! hand against the f64 oracle and its central differences.

use crate::oracle::{Array, normal, numeric_gradients, worst_difference};
use crate::tolerance;
use clip_distill::autodiff::{Result, Tape, Var};
use clip_distill::backend::{Backend, KERNELS, cpu::Cpu};
use std::sync::{Arc, Once};

/// The backends that can run here. `CLIP_DISTILL_REQUIRE=cpu,…` makes a missing one a failure.
pub fn backends() -> Vec<Arc<dyn Backend>> {
    static PRINT: Once = Once::new();
    let found: Vec<Arc<dyn Backend>> = vec![Arc::new(Cpu::new())];
    PRINT.call_once(|| {
        for b in &found {
            println!("checking backend {}: {}", b.name(), b.describe());
            assert_eq!(b.coverage(), KERNELS, "{} lacks kernels", b.name());
        }
        let required = std::env::var("CLIP_DISTILL_REQUIRE").unwrap_or_default();
        for name in required.split(',').filter(|n| !n.is_empty()) {
            assert!(
                found.iter().any(|b| b.name() == name),
                "required backend {name} is missing"
            );
        }
    });
    found
}

/// Checks `op` against `oracle` on `inputs`, and its gradients under a random upstream gradient, on
/// every backend at hand.
pub fn check(
    name: &str,
    inputs: &[Array],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: impl Fn(&[Array]) -> Array,
) {
    check_on(&backends(), name, inputs, op, oracle);
}

/// As [`check`], on given backends. The upstream gradient holds bf16 numbers, so that a backend
/// whose products are in bf16 gets it as it is.
pub fn check_on(
    backends: &[Arc<dyn Backend>],
    name: &str,
    inputs: &[Array],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    oracle: impl Fn(&[Array]) -> Array,
) {
    // What the device gets is f32: the oracle must start from the same numbers.
    let inputs: Vec<Array> = inputs
        .iter()
        .map(|a| Array::from_f32(&a.shape, &a.to_f32()))
        .collect();
    let want = oracle(&inputs);
    let upstream = coarse(&normal(&want.shape, 99));
    let gradients = numeric_gradients(&inputs, &oracle, &upstream);
    for backend in backends {
        let tape = Tape::new(backend.clone());
        let vars: Vec<Var> = inputs
            .iter()
            .map(|a| tape.leaf(backend.upload(&a.shape, &a.to_f32()).expect("upload")))
            .collect();
        let out = op(&tape, &vars).unwrap_or_else(|e| panic!("{name}: {e}"));
        let compare = |what: String, got: &[f32], want: &Array, tolerance: f64| {
            let got = Array::from_f32(&want.shape, got);
            let error = worst_difference(&got, want);
            assert!(
                error <= tolerance,
                "{name} on {}: {what} off by {error:e}, allowed {tolerance:e}",
                backend.name()
            );
        };
        let got = backend.download(out.value()).expect("download");
        compare("forward".into(), &got, &want, tolerance::FORWARD);
        let seed = backend
            .upload(out.shape(), &upstream.to_f32())
            .expect("upload");
        let grads = tape.backward_from(&[(&out, seed)]).expect("backward");
        for (i, (var, want)) in vars.iter().zip(&gradients).enumerate() {
            let grad = grads
                .get(var)
                .unwrap_or_else(|| panic!("{name}: no gradient {i}"));
            let got = backend.download(grad).expect("download");
            compare(format!("gradient {i}"), &got, want, tolerance::GRADIENT);
        }
    }
}

/// The values rounded to bf16.
pub fn coarse(a: &Array) -> Array {
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    let values: Vec<f32> = a.to_f32().into_iter().map(round).collect();
    Array::from_f32(&a.shape, &values)
}
