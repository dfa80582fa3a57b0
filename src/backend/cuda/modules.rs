//! The kernels' sources, embedded: what NVRTC compiles for a GPU and g++ for the emulated device.

/// A file `cuda/<name>.cu`.
#[derive(Debug)]
pub(super) struct Module {
    /// File name without its end.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// Embeds the modules of these names.
macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        &[$(Module {
            name: $name,
            source: include_str!(concat!("../../../cuda/", $name, ".cu")),
        }),*]
    };
}

/// Every module, one line each.
pub(super) const MODULES: &[Module] = modules![
    "adamw",
    "attention",
    "attention_pool",
    "avg_pool",
    "batch_norm",
    "column_sums",
    "conv2d",
    "embedding",
    "exp",
    "fill",
    "grad_norm",
    "images",
    "intra_weights",
    "l2_normalize",
    "layer_norm",
    "linear",
    "mse",
    "patchify",
    "prepend_class",
    "prepend_mean",
    "relation",
    "relation_backward",
    "relation_curvature",
    "select_rows",
    "storage",
    "submatrix",
    "sum",
    "weighted_sum",
];

/// What the modules include: file name and text.
pub(super) const HEADERS: &[(&str, &str)] = &[
    ("attention.cuh", include_str!("../../../cuda/attention.cuh")),
    (
        "attention_bf16.cuh",
        include_str!("../../../cuda/attention_bf16.cuh"),
    ),
    (
        "attention_f32.cuh",
        include_str!("../../../cuda/attention_f32.cuh"),
    ),
    ("common.cuh", include_str!("../../../cuda/common.cuh")),
    ("columns.cuh", include_str!("../../../cuda/columns.cuh")),
    ("reduce.cuh", include_str!("../../../cuda/reduce.cuh")),
    ("scatter.cuh", include_str!("../../../cuda/scatter.cuh")),
    (
        "similarity.cuh",
        include_str!("../../../cuda/similarity.cuh"),
    ),
    ("table.cuh", include_str!("../../../cuda/table.cuh")),
    ("tiles.cuh", include_str!("../../../cuda/tiles.cuh")),
    ("vector.cuh", include_str!("../../../cuda/vector.cuh")),
    ("nvidia.cuh", include_str!("../../../cuda/nvidia.cuh")),
];

/// The module of that name.
pub(super) fn module(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|m| m.name == name)
}
