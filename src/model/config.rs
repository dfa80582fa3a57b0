//! open_clip's `model_config` JSON, and the built-in models.

use super::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A CLIP model: open_clip's `model_config` JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Width of the shared embedding.
    pub embed_dim: usize,
    /// QuickGELU instead of exact GELU, in both towers.
    #[serde(default)]
    pub quick_gelu: bool,
    /// The image tower.
    pub vision_cfg: VisionConfig,
    /// The text tower.
    pub text_cfg: TextConfig,
}

/// open_clip's `vision_cfg` of a ViT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the square input in pixels.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    /// Number of blocks.
    #[serde(default = "default_layers")]
    pub layers: usize,
    /// Width of the tokens.
    #[serde(default = "default_vision_width")]
    pub width: usize,
    /// Width of one attention head.
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    /// Width of the MLP over the width of the tokens.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Side of a square patch in pixels.
    #[serde(default = "default_patch_size")]
    pub patch_size: usize,
}

/// open_clip's `text_cfg` of its own text transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Longest text in tokens, start and end included.
    #[serde(default = "default_context_length")]
    pub context_length: usize,
    /// Number of token ids.
    #[serde(default = "default_vocab_size")]
    pub vocab_size: usize,
    /// Width of the tokens.
    #[serde(default = "default_text_width")]
    pub width: usize,
    /// Number of attention heads.
    #[serde(default = "default_text_heads")]
    pub heads: usize,
    /// Number of blocks.
    #[serde(default = "default_layers")]
    pub layers: usize,
    /// Width of the MLP over the width of the tokens.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
}

// open_clip's defaults (CLIPVisionCfg, CLIPTextCfg).
fn default_image_size() -> usize {
    224
}
fn default_layers() -> usize {
    12
}
fn default_vision_width() -> usize {
    768
}
fn default_head_width() -> usize {
    64
}
fn default_mlp_ratio() -> f64 {
    4.0
}
fn default_patch_size() -> usize {
    16
}
fn default_context_length() -> usize {
    77
}
fn default_vocab_size() -> usize {
    49408
}
fn default_text_width() -> usize {
    512
}
fn default_text_heads() -> usize {
    8
}

/// The built-in ViT models: name, embedding, (patch, width, layers), (text width, text heads).
type BuiltIn = (&'static str, usize, (usize, usize, usize), (usize, usize));
const BUILT_IN: [BuiltIn; 4] = [
    ("ViT-T-16", 512, (16, 192, 12), (384, 6)),
    ("ViT-B-16", 512, (16, 768, 12), (512, 8)),
    ("ViT-B-32", 512, (32, 768, 12), (512, 8)),
    ("ViT-L-14", 768, (14, 1024, 24), (768, 12)),
];

impl VisionConfig {
    /// Number of attention heads.
    pub fn heads(&self) -> usize {
        self.width / self.head_width
    }

    /// Patches along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Hidden width of the MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }
}

impl TextConfig {
    /// Hidden width of the MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    /// The id of the end token: the highest.
    pub fn end_token(&self) -> i32 {
        self.vocab_size as i32 - 1
    }
}

impl ClipConfig {
    /// A built-in model; a name ending in `-quickgelu` has QuickGELU.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let (base, quick_gelu) = name
            .strip_suffix("-quickgelu")
            .map_or((name, false), |base| (base, true));
        let found = BUILT_IN.iter().find(|(n, ..)| n.eq_ignore_ascii_case(base));
        let Some(&(_, embed_dim, (patch_size, width, layers), (text_width, heads))) = found else {
            let known = BUILT_IN.map(|(n, ..)| n).join(", ");
            return Err(Error::UnknownModel {
                name: name.into(),
                known,
            });
        };
        Ok(Self {
            embed_dim,
            quick_gelu,
            vision_cfg: VisionConfig {
                image_size: 224,
                layers,
                width,
                head_width: 64,
                mlp_ratio: 4.0,
                patch_size,
            },
            text_cfg: TextConfig {
                context_length: 77,
                vocab_size: 49408,
                width: text_width,
                heads,
                layers: 12,
                mlp_ratio: 4.0,
            },
        })
    }

    /// A built-in model by name, or a `model_config` file by path.
    ///
    /// # Errors
    /// If it is neither, or the file describes no model.
    pub fn load(name_or_path: &str) -> Result<Self> {
        if !name_or_path.ends_with(".json") {
            return Self::named(name_or_path);
        }
        let file_error = |detail: String| Error::File {
            path: name_or_path.into(),
            detail,
        };
        let text = std::fs::read_to_string(Path::new(name_or_path))
            .map_err(|e| file_error(e.to_string()))?;
        Self::from_json(&text).map_err(|e| file_error(e.to_string()))
    }

    /// Parses open_clip's `model_config` JSON, or an `open_clip_config.json` that holds one as
    /// `model_cfg`.
    ///
    /// # Errors
    /// If it is no JSON of that form, or describes no model.
    pub fn from_json(text: &str) -> Result<Self> {
        let error = |e: serde_json::Error| Error::Config(e.to_string());
        let mut json: serde_json::Value = serde_json::from_str(text).map_err(error)?;
        if let Some(inner) = json.get_mut("model_cfg") {
            json = inner.take();
        }
        let config: Self = serde_json::from_value(json).map_err(error)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (v, t) = (&self.vision_cfg, &self.text_cfg);
        let rules = [
            (self.embed_dim > 0, "embed_dim must be positive"),
            (
                v.width > 0 && v.layers > 0,
                "vision width and layers must be positive",
            ),
            (
                t.width > 0 && t.layers > 0,
                "text width and layers must be positive",
            ),
            (
                v.head_width > 0 && v.width % v.head_width == 0,
                "vision width must be a multiple of head_width",
            ),
            (
                v.patch_size > 0 && v.image_size >= v.patch_size,
                "image_size must hold a patch",
            ),
            (
                v.patch_size > 0 && v.image_size % v.patch_size == 0,
                "image_size must be a multiple of patch_size",
            ),
            (
                t.heads > 0 && t.width % t.heads == 0,
                "text width must be a multiple of heads",
            ),
            (
                t.context_length >= 2,
                "context_length must hold the start and end tokens",
            ),
            (
                t.vocab_size > 2 && t.vocab_size < i32::MAX as usize,
                "vocab_size must hold the start and end tokens",
            ),
            (
                v.mlp_width() > 0 && t.mlp_width() > 0,
                "mlp_ratio must give a hidden width",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::Config((*rule).into())),
            None => Ok(()),
        }
    }
}
