//! Which α the intra-modal loss uses for the student.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// α of the student's intra-modal logits; `--intra-scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IntraScale {
    /// The student's contrastive scale, which then learns from both losses.
    #[default]
    Shared,
    /// The same without gradient.
    Detached,
    /// A constant.
    Fixed(f64),
}

impl FromStr for IntraScale {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "shared" => Ok(Self::Shared),
            "detached" => Ok(Self::Detached),
            _ => match s.parse::<f64>() {
                Ok(x) if x.is_finite() && x > 0.0 => Ok(Self::Fixed(x)),
                _ => Err(format!(
                    "`{s}` is none of shared, detached, a positive number"
                )),
            },
        }
    }
}

impl TryFrom<String> for IntraScale {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<IntraScale> for String {
    fn from(s: IntraScale) -> Self {
        s.to_string()
    }
}

impl fmt::Display for IntraScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Detached => f.write_str("detached"),
            Self::Fixed(x) => write!(f, "{x}"),
        }
    }
}
