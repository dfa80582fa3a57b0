//! What can go wrong with a file of tensors.

use std::path::{Path, PathBuf};

/// Result of reading or writing tensors.
pub type Result<T> = std::result::Result<T, Error>;

/// Problems that a message names: beyond that, it is another model's file.
const LISTED: usize = 40;

fn listed(problems: &[String]) -> String {
    let (named, more) = problems.split_at(problems.len().min(LISTED));
    let mut list = named.join("; ");
    if !more.is_empty() {
        list += &format!("; and {} more: is it another model's?", more.len());
    }
    list
}

/// An error of a tensor file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// Not a well-formed safetensors file.
    #[error("{path}: not a valid safetensors file: {detail}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Tensors that do not fit the model, all of them; the message names the first 40.
    #[error("{path} does not fit the model: {}", listed(problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// One entry a tensor: missing, unexpected, or both shapes.
        problems: Vec<String>,
    },
    /// The device refused the tensors.
    #[error(transparent)]
    Backend(#[from] crate::backend::Error),
}

impl Error {
    /// An I/O error of `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_model_is_not_listed_whole() {
        let problems = |n: usize| (0..n).map(|i| format!("missing p{i}")).collect::<Vec<_>>();
        let message = |problems| {
            let path = "w.safetensors".into();
            Error::Mismatch { path, problems }.to_string()
        };
        assert_eq!(
            message(problems(2)),
            "w.safetensors does not fit the model: missing p0; missing p1"
        );
        let long = message(problems(LISTED + 3));
        assert!(
            long.contains("missing p39; and 3 more") && !long.contains("p40"),
            "{long}"
        );
    }
}
