//! A value: run-time shape, contiguous row-major, dtype, and a reference-counted storage handle.
//!
//! A [`Tensor`] has neither gradients nor kernels. Cloning one shares its storage;
//! a backend writes only into storage that nobody else holds, so a clone never changes under its
//! owner.

mod normalisation;
pub mod rng;

pub use normalisation::Normalisation;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16: the range of f32 with 8 bits of significand.
    BF16,
    /// IEEE 754 half precision.
    F16,
    /// 32-bit signed integers: token ids, row indices, offsets.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }
}

/// Memory of one device. A backend downcasts it to its own type.
pub trait Storage: Any + Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> usize;
    /// For the owning backend's downcast.
    fn as_any(&self) -> &dyn Any;
    /// For the owning backend's downcast, when it writes.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// An n-dimensional array on one device.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    storage: Arc<dyn Storage>,
}

impl Tensor {
    /// A tensor over `storage`, which must hold exactly the elements of `shape`.
    ///
    /// # Panics
    /// If the storage is smaller than shape and dtype need: a backend's programming error.
    pub fn new(shape: &[usize], dtype: DType, storage: Arc<dyn Storage>) -> Self {
        let need = shape.iter().product::<usize>() * dtype.size();
        assert!(
            storage.size() >= need,
            "storage of {} bytes for shape {shape:?}",
            storage.size()
        );
        Self {
            shape: shape.to_vec(),
            dtype,
            storage,
        }
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the last dimension (1 for a scalar).
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape
            .split_last()
            .map_or(1, |(_, rest)| rest.iter().product())
    }

    /// The memory of the elements.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// The memory for writing: `None` while another tensor shares it.
    pub fn storage_mut(&mut self) -> Option<&mut dyn Storage> {
        Arc::get_mut(&mut self.storage)
    }

    /// The same elements under another shape: `None` if the number of elements differs.
    pub fn reshaped(mut self, shape: &[usize]) -> Option<Self> {
        (shape.iter().product::<usize>() == self.len()).then(|| {
            self.shape = shape.to_vec();
            self
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?} {:?})", self.dtype, self.shape)
    }
}
