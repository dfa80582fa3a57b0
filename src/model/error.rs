//! What can go wrong with a model.

/// Result of model code.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a model or its configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation refused.
    #[error(transparent)]
    Autodiff(#[from] crate::autodiff::Error),
    /// Neither a built-in name nor a readable file.
    #[error(
        "unknown model {name:?}: built in are {known}; or give the path of an open_clip model_config JSON file"
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: String,
    },
    /// A configuration file that cannot be read or parsed.
    #[error("model configuration {path}: {detail}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A configuration that describes no model.
    #[error("model configuration: {0}")]
    Config(String),
    /// Two models of which one cannot inherit from the other.
    #[error("weights cannot be inherited: {0}")]
    Inherit(String),
    /// A parameter that the model needs and the store lacks.
    #[error("no parameter named {0}")]
    MissingParameter(String),
    /// A text that the text tower cannot take.
    #[error("text {index}: {detail}")]
    Text {
        /// Its position in the batch.
        index: usize,
        /// What is wrong.
        detail: String,
    },
    /// Images that cannot be masked as asked.
    #[error("masked images: {0}")]
    Mask(String),
}

impl From<crate::backend::Error> for Error {
    fn from(e: crate::backend::Error) -> Self {
        Self::Autodiff(e.into())
    }
}
