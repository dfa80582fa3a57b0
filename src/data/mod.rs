//! Work in progress.

pub mod demo;
pub mod tokenizer;
