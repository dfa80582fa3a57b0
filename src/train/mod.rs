//! One step: batch, teacher, student, losses, backward, optimiser.
//!
//! [`step::Trainer`] is a student in training. What a run makes of it is in [`crate::run`].

pub mod anchors;
pub mod batch;
pub mod feature_cache;
pub mod gates;
mod gradients;
pub(crate) mod heads;
pub(crate) mod masking;
pub mod pending_step;
mod rows;
pub mod step;
pub mod teacher;
