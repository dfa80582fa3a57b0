//! What can go wrong in a kernel call.

use crate::tensor::DType;

/// Result of a backend call.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shapes that do not fit the operation.
    #[error("{op}: {detail}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Both shapes and the rule that they break.
        detail: String,
    },
    /// An element type that the operation does not take.
    #[error("{op}: expected {expected:?}, got {got:?}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What the kernel takes.
        expected: DType,
        /// What it was given.
        got: DType,
    },
    /// A tensor of another device.
    #[error("{op}: the tensor does not live on backend {backend}")]
    Foreign {
        /// The operation.
        op: &'static str,
        /// The backend that was called.
        backend: &'static str,
    },
    /// The tensor to be written is shared, so writing would change another value.
    #[error("{op}: the tensor to write is shared")]
    Shared {
        /// The operation.
        op: &'static str,
    },
    /// An index outside its table.
    #[error("{op}: index {index} outside 0..{bound}")]
    Index {
        /// The operation.
        op: &'static str,
        /// The offending index.
        index: i64,
        /// Number of valid indices.
        bound: usize,
    },
    /// The backend does not have the operation for such operands;
    /// [`Info::supports`](super::Info::supports) says so beforehand.
    #[error("backend {backend} has no {op} of {dtype:?} {shape:?}{}{limit}", if limit.is_empty() { "" } else { ": " })]
    Unsupported {
        /// The backend.
        backend: &'static str,
        /// The operation.
        op: &'static str,
        /// Element type of the first operand.
        dtype: DType,
        /// Shape of the first operand.
        shape: Box<[usize]>,
        /// What it has, where that is a matter of size; or empty.
        limit: &'static str,
    },
    /// A kernel did what none may: it wrote outside its buffers, its threads waited for each other in vain.
    #[error("kernel {kernel}: {fault}")]
    Fault {
        /// Its entry point.
        kernel: String,
        /// What happened, and in which block, warp and thread.
        fault: String,
    },
    /// A device or a library that it needs is missing or failed.
    #[error("{device}: {detail}")]
    Device {
        /// Which device.
        device: &'static str,
        /// What failed, and what to do.
        detail: String,
    },
}

impl Error {
    /// What went wrong, without the device's name where the reader has it already.
    pub fn detail(&self) -> String {
        match self {
            Self::Device { detail, .. } => detail.clone(),
            other => other.to_string(),
        }
    }
}

/// A shape error naming the operation.
pub fn shape_error<T>(op: &'static str, detail: impl Into<String>) -> Result<T> {
    Err(Error::Shape {
        op,
        detail: detail.into(),
    })
}

/// An [`Error::Device`].
pub fn device_error<T>(device: &'static str, detail: impl Into<String>) -> Result<T> {
    Err(Error::Device {
        device,
        detail: detail.into(),
    })
}
