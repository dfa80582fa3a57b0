//! A value: run-time shape, contiguous row-major, dtype, and a reference-counted storage handle.
pub mod rng;
