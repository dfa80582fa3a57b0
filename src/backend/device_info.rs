//! What a device is, before a run opens it: for lists of devices.

use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// Which of a backend's devices: what `--device` says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeviceChoice {
    /// By its number in the list of devices.
    Number(usize),
    /// By a part of its name, in any case.
    Name(String),
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl FromStr for DeviceChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let number = text.parse().map(Self::Number);
        Ok(number.unwrap_or_else(|_| Self::Name(text.to_owned())))
    }
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The devices of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendDevices {
    /// What `--backend` calls it.
    pub backend: &'static str,
    /// Its devices, by index; or, in one line, why there is none and what to do about it.
    pub devices: Result<Vec<DeviceInfo>, String>,
}

/// A device that a backend can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What `--device` chooses it by.
    pub index: usize,
    /// The name that its maker gave it.
    pub name: String,
    /// What it is capable of, in the terms of its kind: compute capability, threads, vector instructions.
    pub capability: String,
    /// Bytes of memory; `None` where the system does not say.
    pub memory: Option<u64>,
    /// Bytes of it that a new run could use; or, in one line, why that is unknown.
    pub free: Result<u64, String>,
    /// What `--precision` it takes.
    pub precisions: Vec<PrecisionSupport>,
}

/// Whether a device can run in a precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecisionSupport {
    /// What `--precision` calls it.
    pub precision: &'static str,
    /// Nothing; or, in one line, what is missing.
    pub support: Result<(), String>,
}

impl Display for BackendDevices {
    /// A line for each device, without a line break at the end.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.devices {
            Ok(devices) => {
                for (n, device) in devices.iter().enumerate() {
                    let end = if n > 0 { "\n" } else { "" };
                    write!(f, "{end}{} {device}", self.backend)?;
                }
                Ok(())
            }
            Err(why) => write!(f, "{}: none: {why}", self.backend),
        }
    }
}

impl Display for DeviceInfo {
    /// One line: index, name, capability, memory, precisions.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}, {}", self.index, self.name, self.capability)?;
        if let Some(memory) = self.memory {
            write!(f, ", {} of memory", gib(memory))?;
        }
        match &self.free {
            Ok(free) => write!(f, ", {} free", gib(*free))?,
            Err(why) => write!(f, ", free memory unknown ({why})")?,
        }
        for (n, PrecisionSupport { precision, support }) in self.precisions.iter().enumerate() {
            let start = if n == 0 { "; " } else { ", " };
            match support {
                Ok(()) => write!(f, "{start}{precision}")?,
                Err(why) => write!(f, "{start}no {precision} ({why})")?,
            }
        }
        Ok(())
    }
}

/// Of memory that tensors take, for people.
pub(crate) fn gigabytes(bytes: usize) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_device_has_and_what_it_lacks() {
        let device = DeviceInfo {
            index: 1,
            name: "T4".into(),
            capability: "compute capability 7.5".into(),
            memory: Some(16 << 30),
            free: Err("busy".into()),
            precisions: vec![
                PrecisionSupport {
                    precision: "fp32",
                    support: Ok(()),
                },
                PrecisionSupport {
                    precision: "amp_bf16",
                    support: Err("too old".into()),
                },
            ],
        };
        let mut all = BackendDevices {
            backend: "cuda",
            devices: Ok(vec![device]),
        };
        assert_eq!(
            all.to_string(),
            "cuda 1: T4, compute capability 7.5, 16.0 GiB of memory, free memory unknown (busy); fp32, \
             no amp_bf16 (too old)"
        );
        all.devices = Err("no driver".into());
        assert_eq!(all.to_string(), "cuda: none: no driver");
    }
}
