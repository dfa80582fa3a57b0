//! How gradients are handed over: *accumulated by the kernel that makes them*. A kernel gets a [`Slot`] for each
//! gradient that it computes, and either fills it (when empty) or adds into it.

use crate::tensor::Tensor;

/// A gradient under accumulation: empty until the first contribution.
pub type Grad = Option<Tensor>;

/// Where a kernel puts a gradient; `None` when it is not wanted.
pub type Slot<'a> = Option<&'a mut Grad>;
