//! `--stages`: how large the model of each stage is.

use super::error::{Result, usage};
use std::path::Path;

/// The size of a stage's model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Size {
    /// Of the first model, in per cent.
    Percent(f64),
    /// A name or a JSON file.
    Model(String),
}

/// The sizes that `--stages` names, without the 100 that they may begin with.
pub(crate) fn parse(stages: &str, prunes: bool) -> Result<Vec<Size>> {
    let mut sizes: Vec<Size> = Vec::new();
    for word in stages.split(',').map(str::trim) {
        match word.trim_end_matches('%').parse::<f64>() {
            Ok(100.0) if sizes.is_empty() => {}
            Ok(p) if p > 0.0 && p < 100.0 => sizes.push(Size::Percent(p)),
            Ok(p) => {
                return usage(format!(
                    "--stages: {p} is not a percentage between 0 and 100"
                ));
            }
            Err(_) if prunes => {
                return usage(format!(
                    "--stages: {word}: with --prune-image or --prune-text every size is a percentage"
                ));
            }
            Err(_) => sizes.push(Size::Model(word.into())),
        }
    }
    let falls = sizes.windows(2).all(|pair| match pair {
        [Size::Percent(a), Size::Percent(b)] => a > b,
        _ => true,
    });
    match (sizes.is_empty(), falls) {
        (true, _) => usage("--stages names no size below 100"),
        (_, false) => usage("--stages must fall: 100,75,50"),
        _ => Ok(sizes),
    }
}

impl Size {
    /// The stage's folder.
    pub(crate) fn folder(&self) -> String {
        match self {
            Self::Percent(p) => format!("stage-{p}"),
            Self::Model(name) => {
                let stem = Path::new(name).file_stem().unwrap_or_default();
                format!("stage-{}", stem.to_string_lossy())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_or_refused() {
        let percent = |p: &[f64]| p.iter().map(|&p| Size::Percent(p)).collect::<Vec<_>>();
        assert_eq!(parse("100,75,50", false).unwrap(), percent(&[75.0, 50.0]));
        assert_eq!(
            parse("75%, 50%,25%", true).unwrap(),
            percent(&[75.0, 50.0, 25.0])
        );
        let model = parse("100,a/TinyCLIP.json", false).unwrap();
        assert_eq!(model[0].folder(), "stage-TinyCLIP");
        for (stages, prunes, words) in [
            ("100", false, "names no size"),
            ("50,75", false, "must fall"),
            ("0", false, "not a percentage"),
            ("100,100", false, "names no size"),
            ("75,x.json", true, "every size is a percentage"),
        ] {
            let error = parse(stages, prunes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
