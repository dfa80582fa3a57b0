//! The real programs `eval` and `embed` (and `train`, where it evaluates) on small data built here.
//! Metrics are compared with naive ones in f64; features with the library's towers, one input at a time.

mod embedding;
mod errors;
mod imagenet;
mod naive;
mod pictures;
mod place;
mod protocols;
mod report;
mod training;
