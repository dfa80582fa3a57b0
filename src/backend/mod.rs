//! The contract between operations and devices, and the devices that keep it.
//!
//! An operation has one name on every floor: `contract/<op>.rs` is its trait (what a device is asked, with a default
//! that answers [`Error::Unsupported`]), `cpu/<op>.rs` and `gpu/<op>.rs` implement it, `cuda/<op>.cu` and
//! `shaders/<op>.wgsl` are its kernels.
//! This file lists the operations and the floors, so that adding one is adding those files and a line in each list.
//!
//! Shapes are checked by the operations (`ops`, `loss`); a backend checks only what would be unsafe to trust.

mod cache;
mod device_info;
mod devices;
mod error;
mod fetch;
mod operations;
mod segments;

pub use contract::*;
pub(crate) use device_info::gigabytes;
pub use device_info::{BackendDevices, DeviceChoice, DeviceInfo, PrecisionSupport};
pub use devices::devices;
pub use error::{Error, Result, device_error, shape_error};
pub use fetch::{Fetch, PendingFetch};
pub use segments::Segments;

use operations::{lacking, unsupported};

operations::operations! {
    /// On 8-bit pixels: the element type is that of the result.
    Images = "images",
    Linear = "linear",
    Matmul = "matmul",
    LayerNorm = "layer_norm",
    Conv2d = "conv2d",
    BatchNorm = "batch_norm",
    AvgPool = "avg_pool",
    /// Its shape is `[tokens, heads, columns of a head]`.
    Attention = "attention",
    /// Its shape is `[images, tokens, heads, columns of a head]`.
    AttentionPool = "attention_pool",
    Embedding = "embedding",
    Patchify = "patchify",
    PrependClass = "prepend_class",
    PrependMean = "prepend_mean",
    SelectRows = "select_rows",
    Submatrix = "submatrix",
    L2Normalize = "l2_normalize",
    Exp = "exp",
    WeightedSum = "weighted_sum",
    Relation = "relation",
    RelationBackward = "relation_backward",
    RelationCurvature = "relation_curvature",
    IntraWeighting = "intra_weights",
    Sum = "sum",
    Mse = "mse",
    AdamW = "adamw",
    GradNorm = "grad_norm",
    LossScale = "loss_scale",
}

/// What a device is asked: a trait an operation, its formula and its operands.
pub mod contract {
    mod adamw;
    mod attention;
    mod attention_pool;
    mod avg_pool;
    mod batch_norm;
    mod conv2d;
    mod embedding;
    mod exp;
    mod grad;
    mod grad_norm;
    mod images;
    mod info;
    mod intra_weights;
    mod l2_normalize;
    mod layer_norm;
    mod linear;
    mod loss_scale;
    mod matmul;
    mod mse;
    mod patchify;
    mod prepend_class;
    mod prepend_mean;
    mod relation;
    mod relation_backward;
    mod relation_curvature;
    mod select_rows;
    mod steps;
    mod storage;
    mod submatrix;
    mod sum;
    mod weighted_sum;

    pub use {
        adamw::*, attention::*, attention_pool::*, avg_pool::*, batch_norm::*, conv2d::*,
        embedding::*, exp::*, grad::*, grad_norm::*, images::*, info::*, intra_weights::*,
        l2_normalize::*, layer_norm::*, linear::*, loss_scale::*, matmul::*, mse::*, patchify::*,
        prepend_class::*, prepend_mean::*, relation::*, relation_backward::*,
        relation_curvature::*, select_rows::*, steps::*, storage::*, submatrix::*, sum::*,
        weighted_sum::*,
    };
}

/// The CPU: the embedded default, and the first oracle of the other backends.
pub mod cpu {
    mod adamw;
    mod attention;
    mod attention_pool;
    mod avg_pool;
    mod batch_norm;
    mod conv2d;
    mod device;
    mod embedding;
    mod exp;
    mod gemm;
    mod grad_norm;
    mod images;
    mod info;
    mod intra_weights;
    mod l2_normalize;
    mod layer_norm;
    mod linear;
    mod loss_scale;
    mod math;
    mod matmul;
    mod memory;
    mod mse;
    mod parallel;
    mod patchify;
    mod prepend_class;
    mod prepend_mean;
    mod relation;
    mod relation_backward;
    mod relation_curvature;
    mod select_rows;
    mod storage;
    mod submatrix;
    mod sum;
    mod weighted_sum;

    pub use device::device;
    pub use info::Cpu;
}

/// What the GPU backends share: the operations' launches, tensors in device memory, the pool, replayed steps.
pub mod gpu {
    mod adamw;
    pub(super) mod arguments;
    mod attention;
    mod attention_pool;
    mod avg_pool;
    mod batch_norm;
    mod column_sums;
    mod conv2d;
    pub(super) mod device;
    mod embedding;
    mod exp;
    mod fetch;
    mod grad_norm;
    mod images;
    mod info;
    mod intra_weights;
    mod l2_normalize;
    mod layer_norm;
    mod linear;
    mod loss_scale;
    mod matmul;
    mod memory;
    mod mse;
    mod operand;
    mod patchify;
    pub(super) mod pool;
    mod prepend_class;
    mod prepend_mean;
    pub(super) mod recorder;
    mod relation;
    mod relation_backward;
    mod relation_curvature;
    mod select_rows;
    mod storage;
    mod submatrix;
    mod sum;
    mod table;
    mod weighted_sum;

    use arguments::arguments;
    pub use info::Gpu;
    use info::{Limit, instance};

    /// The operations whose kernels do not take every size.
    const LIMITS: &[(super::Op, Limit)] = &[
        (super::Op::LayerNorm, layer_norm::limit),
        (super::Op::Attention, attention::limit),
        (super::Op::AttentionPool, attention_pool::limit),
        (super::Op::Conv2d, conv2d::limit),
        (super::Op::AvgPool, avg_pool::limit),
    ];

    /// The structs that their kernels take, checked when the kernels are compiled.
    const LAYOUTS: &[&[arguments::Layout]] = &[
        adamw::LAYOUTS,
        attention::LAYOUTS,
        attention_pool::LAYOUTS,
        avg_pool::LAYOUTS,
        batch_norm::LAYOUTS,
        column_sums::LAYOUTS,
        conv2d::LAYOUTS,
        embedding::LAYOUTS,
        exp::LAYOUTS,
        grad_norm::LAYOUTS,
        images::LAYOUTS,
        intra_weights::LAYOUTS,
        l2_normalize::LAYOUTS,
        layer_norm::LAYOUTS,
        linear::LAYOUTS,
        loss_scale::LAYOUTS,
        mse::LAYOUTS,
        patchify::LAYOUTS,
        prepend_class::LAYOUTS,
        prepend_mean::LAYOUTS,
        relation::LAYOUTS,
        relation_backward::LAYOUTS,
        relation_curvature::LAYOUTS,
        select_rows::LAYOUTS,
        storage::LAYOUTS,
        submatrix::LAYOUTS,
        sum::LAYOUTS,
        weighted_sum::LAYOUTS,
    ];
}

pub mod cuda;
pub mod wgpu;
