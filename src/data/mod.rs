//! Work in progress.

pub mod tokenizer;
