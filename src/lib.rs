//! `clip_distill`: a tensor and reverse-mode autodiff engine that distils CLIP models.
//!
//! [`guide`] is what to read first: a first run, the losses, how results are verified, how to add an operation.
//!
//! The rooms, from the ground up; each imports only from those above it in this list:
//!
//! - [`notices`]: what the library says while it works, to those who listen.
//! - [`tensor`]: a value. Shape, dtype, storage handle, counter-based random numbers.
//! - [`backend`]: the kernels as one object-safe trait, and the devices that run them.
//! - [`autodiff`]: the tape. [`autodiff::Var`], recording, backward, recomputation.
//! - [`ops`]: the closed set of differentiable operations, one file each.
//! - [`loss`]: each distillation loss, one file and one operation, and their weighted sum.
//! - [`model`]: CLIP as open_clip defines it: configuration, towers, parameters, heads.
//! - [`io`]: safetensors, and the maps between file layouts and ours.
//! - [`data`]: tokenizer, image decoding and transforms, webdataset shards, loader, demo corpus.
//! - [`optim`]: AdamW, learning-rate schedules, gradient clipping.
//! - [`eval`]: zero-shot classification and retrieval of a trained model, the test sets, the report.
//! - [`settings`]: what flags and configuration files say, resolved once into what it means.
//! - [`train`]: one step: batch, teacher, student, losses, backward, optimiser.
//! - [`report`]: a run in one page.
//! - [`run`]: a run and its folder: the loop, checkpoints, logs, evaluation.
//! - [`programs`]: `train`, `eval` and `embed`, the demonstration, the ablation: everything that prints.
//!
//! The library prints nothing and chooses no allocator. A program that trains or evaluates on the CPU should choose
//! one that keeps freed memory, as the three programs and the benches do: every operation allocates and frees tensors
//! of many megabytes, and where the allocator returns them to the kernel each time, page faults and TLB shootdowns
//! cost a fifth of a small model's step.

pub mod autodiff;
pub mod backend;
pub mod data;
pub mod eval;
pub mod guide;
pub mod io;
pub mod loss;
pub mod model;
pub mod notices;
pub mod ops;
pub mod optim;
pub mod programs;
pub mod report;
pub mod run;
pub mod settings;
pub mod tensor;
pub mod train;

#[cfg(test)]
#[path = "../tests/common/require.rs"]
mod require;
