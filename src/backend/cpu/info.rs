//! The CPU: the embedded default, and the first oracle of the other backends. Tensors are f32; where the
//! processor has AVX512-BF16, linear layers and convolutions can take their products in bf16.

use super::device::vectors;
use super::gemm::{Products, bf16_available};
use super::memory::most_in_use;
use crate::backend::{Info, Op, Steps, gigabytes};
use crate::tensor::DType;

/// The CPU backend. Work is spread over rayon's global pool; results do not depend on its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub(super) products: Products,
}

impl Cpu {
    pub(super) const NAME: &'static str = "cpu";

    /// The CPU backend, in f32.
    pub fn new() -> Self {
        Self::default()
    }

    /// The CPU backend with mixed precision: linear layers, convolutions and projections round their operands to
    /// bf16 and sum in f32; all else, and every tensor that is kept, is f32. `None` where the
    /// processor lacks AVX512-BF16.
    pub fn bf16() -> Option<Self> {
        let products = Products::Bf16;
        bf16_available().then_some(Self { products })
    }
}

impl Info for Cpu {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn describe(&self) -> String {
        format!(
            "CPU, {} threads, {} vectors{}",
            rayon::current_num_threads(),
            vectors(),
            match self.products {
                Products::F32 => "",
                Products::Bf16 => ", bf16 products",
            }
        )
    }

    fn supports(&self, _op: Op, dtype: DType, _shape: &[usize]) -> bool {
        dtype == DType::F32
    }

    /// Few enough that a block's values stay in the last-level cache.
    fn frozen_batch(&self) -> usize {
        8
    }
}

impl Steps for Cpu {
    fn account(&self) -> Option<String> {
        let most = gigabytes(size_of::<f32>() * most_in_use());
        Some(format!("tensors took {most} at most"))
    }
}
