//! The list of operations, from which their enum and their sum are made.

/// Makes [`Op`](super::Op) and [`Backend`](super::Backend) of the operations' traits and names.
macro_rules! operations {
    ($($(#[$doc:meta])* $op:ident = $name:literal),* $(,)?) => {
        /// An operation, as [`Info::supports`] is asked about it. Shapes are those of the first operand, but where a
        /// variant says otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Op {
            $(
                #[doc = concat!("[`", stringify!($op), "`](contract::", stringify!($op), ").")]
                $(#[$doc])*
                $op,
            )*
        }

        impl Op {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$op),*];

            /// Its name: of its files, in errors, in tests.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$op => $name,)*
                }
            }
        }

        /// A device that runs the engine: tensors in its memory, and every operation's trait.
        pub trait Backend: Info + Storage + Steps $(+ contract::$op)* {}

        impl<T: Info + Storage + Steps $(+ contract::$op)*> Backend for T {}
    };
}
pub(super) use operations;

use super::{Error, Info, Op, Result};
use crate::tensor::{DType, Tensor};

impl Op {
    /// The operation of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }
}

/// The answer of a backend that does not have `op` for operands of this kind. `limit` says what it has, or is empty.
pub(super) fn unsupported(
    backend: &'static str,
    op: &'static str,
    dtype: DType,
    shape: &[usize],
    limit: &'static str,
) -> Error {
    Error::Unsupported {
        backend,
        op,
        dtype,
        shape: shape.into(),
        limit,
    }
}

/// The answer of an operation's default.
pub(super) fn lacking<T>(backend: &(impl Info + ?Sized), op: Op, x: &Tensor) -> Result<T> {
    Err(unsupported(
        backend.name(),
        op.name(),
        x.dtype(),
        x.shape(),
        "",
    ))
}
