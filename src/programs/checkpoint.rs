//! The CHECKPOINT of a command line: where its weights are, and which model they are of.

use crate::backend::Backend;
use crate::data::demo::DEMO;
use crate::eval::Model;
use crate::io;
use crate::model::{Clip, ClipConfig, Parameters};
use crate::run::checkpoint::{HUB_MODEL, MODEL, MODEL_CONFIG, weights};
use crate::run::embedded;
use crate::run::models::model_config;
use crate::settings::error::{Result, input, unreadable, usage};
use crate::tensor::Normalisation;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A trained model.
#[derive(Debug)]
pub struct Trained {
    /// A short name for tables: `RUN/step_N`, or the file's.
    pub name: String,
    /// The file of its weights; without one, it is the teacher inside the program.
    pub weights: Option<PathBuf>,
    /// The model.
    pub clip: Clip,
    /// Its weights.
    pub parameters: Parameters,
    /// What it was trained with.
    pub normalisation: Normalisation,
}

impl Trained {
    /// The model to be evaluated, on the device that its weights are on.
    pub fn model<'a>(&'a self, backend: &'a Arc<dyn Backend>) -> Model<'a> {
        Model {
            backend,
            clip: &self.clip,
            parameters: &self.parameters,
        }
    }

    /// Where a file about this checkpoint belongs: beside its weights.
    pub fn beside(&self, name: &str) -> PathBuf {
        match self.weights.as_deref().and_then(Path::parent) {
            Some(folder) => folder.join(name),
            None => PathBuf::from(name),
        }
    }
}

/// Opens what `checkpoint` names; `model` is the `--model` flag and wins over the configuration beside
/// the weights.
///
/// # Errors
/// If there is no such checkpoint, its model is unknown, or the weights do not fit it.
pub fn open(checkpoint: &str, model: Option<&str>, backend: &Arc<dyn Backend>) -> Result<Trained> {
    if checkpoint == DEMO {
        return inside(model, backend);
    }
    let weights = weights(Path::new(checkpoint))?;
    let beside = weights.with_file_name(MODEL_CONFIG);
    let (mut normalisation, mut config) = (Normalisation::OPENAI, None);
    if beside.is_file() {
        let text = std::fs::read_to_string(&beside).map_err(|e| unreadable(&beside, &e))?;
        let name = |e: &dyn std::fmt::Display| input(format!("{}: {e}", beside.display()));
        let preprocessing = Preprocessing::from_json(&text).map_err(|e| name(&e))?;
        normalisation = Normalisation {
            mean: preprocessing.mean.unwrap_or(normalisation.mean),
            std: preprocessing.std.unwrap_or(normalisation.std),
        };
        if model.is_none() {
            config = Some(ClipConfig::from_json(&text).map_err(|e| name(&e))?);
        }
    }
    let config = match (model, config) {
        (Some(name), _) => model_config(name)?,
        (None, Some(config)) => config,
        (None, None) => {
            return usage(format!(
                "{}: there is no {MODEL_CONFIG} beside it that names its model: give --model",
                weights.display()
            ));
        }
    };
    let clip = Clip::new(config);
    let parameters = io::load_clip(&weights, &clip, backend.as_ref()).map_err(input)?;
    Ok(Trained {
        name: short_name(&weights),
        weights: Some(weights),
        clip,
        parameters,
        normalisation,
    })
}

/// The teacher inside the program.
fn inside(model: Option<&str>, backend: &Arc<dyn Backend>) -> Result<Trained> {
    if let Some(model) = model {
        return usage(format!(
            "--model {model}: the checkpoint `demo` brings its own model; leave --model out"
        ));
    }
    let teacher = embedded::teacher(backend.as_ref())?;
    Ok(Trained {
        name: "demo teacher".into(),
        weights: None,
        clip: teacher.clip().clone(),
        parameters: teacher.parameters().clone(),
        normalisation: Normalisation::OPENAI,
    })
}

/// `RUN/step_N` for a run's checkpoint, the folder's name for another, the file's name for a file that
/// is not called as in a folder.
fn short_name(weights: &Path) -> String {
    let name = |p: Option<&Path>| {
        let name = p.and_then(Path::file_name);
        name.map(|n| n.to_string_lossy().into_owned())
    };
    let file = name(Some(weights)).unwrap_or_default();
    if file != MODEL && file != HUB_MODEL {
        return file.trim_end_matches(".safetensors").to_string();
    }
    // A relative path may not name the folders it is in.
    let weights = weights.canonicalize().unwrap_or_else(|_| weights.into());
    let folders: Vec<Option<String>> = weights.ancestors().skip(1).map(|p| name(Some(p))).collect();
    match &folders[..] {
        [Some(step), Some(checkpoints), Some(run), ..] if checkpoints == "checkpoints" => {
            format!("{run}/{step}")
        }
        [Some(folder), ..] => folder.clone(),
        _ => file,
    }
}

/// open_clip's `preprocess_cfg`: what an image goes through before the model.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Preprocessing {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    interpolation: Option<String>,
    resize_mode: Option<String>,
}

impl Preprocessing {
    fn from_json(text: &str) -> Result<Self, String> {
        let mut json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let Some(inner) = json.get_mut("preprocess_cfg") else {
            return Ok(Self::default());
        };
        let own: Self =
            serde_json::from_value(inner.take()).map_err(|e| format!("preprocess_cfg: {e}"))?;
        for (key, value, ours) in [
            ("interpolation", &own.interpolation, "bicubic"),
            ("resize_mode", &own.resize_mode, "shortest"),
        ] {
            if let Some(value) = value.as_deref().filter(|v| *v != ours) {
                return Err(format!(
                    "preprocess_cfg: {key} {value} is not in this build, only {ours}"
                ));
            }
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn checkpoints_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for step in ["step_9", "step_10", ".tmp-step_12"] {
            touch(&root.join(format!("run/checkpoints/{step}/{MODEL}")));
            touch(&root.join(format!("run/checkpoints/{step}/{MODEL_CONFIG}")));
        }
        // Weights alone are a folder that is being written.
        touch(&root.join(format!("run/checkpoints/step_11/{MODEL}")));
        let ten = root.join("run/checkpoints/step_10").join(MODEL);
        for place in ["run", "run/checkpoints", "run/checkpoints/step_10"] {
            assert_eq!(weights(&root.join(place)).unwrap(), ten);
        }
        assert_eq!(weights(&ten).unwrap(), ten);
        assert_eq!(short_name(&ten), "run/step_10");
        touch(&root.join("hub/open_clip_model.safetensors"));
        let hub = weights(&root.join("hub")).unwrap();
        assert_eq!(short_name(&hub), "hub");
        assert_eq!(short_name(Path::new("x/vit.safetensors")), "vit");
        touch(&root.join("weights.pt"));
        std::fs::create_dir(root.join("empty")).unwrap();
        for (place, word) in [
            ("none", "no checkpoint"),
            ("weights.pt", "only .safetensors"),
            ("empty", "holds neither"),
        ] {
            let error = weights(&root.join(place)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn preprocessing_is_read_or_refused() {
        let read = Preprocessing::from_json;
        assert_eq!(read("{}"), Ok(Preprocessing::default()));
        let own =
            read(r#"{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"}}"#);
        assert_eq!(own.unwrap().mean, Some([0.5; 3]));
        let squash = read(r#"{"preprocess_cfg": {"resize_mode": "squash"}}"#);
        assert!(squash.unwrap_err().contains("squash"));
        assert!(read(r#"{"preprocess_cfg": {"mean": [1]}}"#).is_err());
        assert!(read("{").is_err());
    }
}
