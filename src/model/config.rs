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

/// Depth of an image tower, which also says what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// A number: blocks of a ViT.
    Blocks(usize),
    /// A list: bottlenecks in each stage of a ResNet.
    Stages([usize; 4]),
}

impl Layers {
    /// Blocks of a ViT; 0 for a ResNet.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Blocks(n) => *n,
            Self::Stages(_) => 0,
        }
    }

    /// Bottlenecks in each stage of a ResNet; none for a ViT.
    pub fn stages(&self) -> &[usize] {
        match self {
            Self::Blocks(_) => &[],
            Self::Stages(stages) => stages,
        }
    }
}

/// open_clip's `vision_cfg` of a ViT or a ModifiedResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the square input in pixels.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    /// Blocks of a ViT, or bottlenecks of a ResNet's four stages.
    #[serde(default = "default_vision_layers")]
    pub layers: Layers,
    /// Width of a ViT's tokens, or channels after a ResNet's stem.
    #[serde(default = "default_vision_width")]
    pub width: usize,
    /// Width of one attention head.
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    /// Width of the MLP over the width of the tokens; a ResNet has none.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Side of a ViT's square patch in pixels; `null` for a ResNet.
    #[serde(default = "default_patch_size")]
    pub patch_size: Option<usize>,
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
fn default_vision_layers() -> Layers {
    Layers::Blocks(default_layers())
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
fn default_patch_size() -> Option<usize> {
    Some(16)
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

/// The image tower of a built-in model.
#[derive(Clone, Copy)]
enum BuiltInVision {
    /// Patch, width, blocks.
    Vit(usize, usize, usize),
    /// Width, stages.
    ResNet(usize, [usize; 4]),
}

/// The built-in models: name, embedding, image tower, (text width, text heads).
type BuiltIn = (&'static str, usize, BuiltInVision, (usize, usize));
const BUILT_IN: [BuiltIn; 5] = [
    ("ViT-T-16", 512, BuiltInVision::Vit(16, 192, 12), (384, 6)),
    ("ViT-B-16", 512, BuiltInVision::Vit(16, 768, 12), (512, 8)),
    ("ViT-B-32", 512, BuiltInVision::Vit(32, 768, 12), (512, 8)),
    ("ViT-L-14", 768, BuiltInVision::Vit(14, 1024, 24), (768, 12)),
    (
        "RN50",
        1024,
        BuiltInVision::ResNet(64, [3, 4, 6, 3]),
        (512, 8),
    ),
];

/// Pixels of the input along each side of one of a ResNet's final pixels.
const RESNET_STRIDE: usize = 32;

/// Width of a ResNet's final pixels over that after its stem.
const RESNET_GROWTH: usize = 32;

impl VisionConfig {
    /// Whether this is a ResNet.
    pub fn is_resnet(&self) -> bool {
        matches!(self.layers, Layers::Stages(_))
    }

    /// Width of the tokens: a ViT's, or those that a ResNet's attention pools.
    pub fn token_width(&self) -> usize {
        if self.is_resnet() {
            self.width * RESNET_GROWTH
        } else {
            self.width
        }
    }

    /// Number of attention heads.
    pub fn heads(&self) -> usize {
        self.token_width() / self.head_width
    }

    /// Pixels along each side of one token: a ViT's patch, or a ResNet's total stride.
    pub fn cell(&self) -> usize {
        match (self.is_resnet(), self.patch_size) {
            (false, Some(patch)) => patch,
            (true, _) | (_, None) => RESNET_STRIDE,
        }
    }

    /// Tokens along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.cell()
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
    /// If no model has that name.
    pub fn named(name: &str) -> Result<Self> {
        let (base, quick_gelu) = name
            .strip_suffix("-quickgelu")
            .map_or((name, false), |base| (base, true));
        let found = BUILT_IN.iter().find(|(n, ..)| n.eq_ignore_ascii_case(base));
        let Some(&(_, embed_dim, vision, (text_width, heads))) = found else {
            let known = BUILT_IN.map(|(n, ..)| n).join(", ");
            return Err(Error::UnknownModel {
                name: name.into(),
                known,
            });
        };
        let (patch_size, width, layers) = match vision {
            BuiltInVision::Vit(patch, width, blocks) => {
                (Some(patch), width, Layers::Blocks(blocks))
            }
            BuiltInVision::ResNet(width, stages) => (None, width, Layers::Stages(stages)),
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
    /// If it is not JSON of that form, or does not describe a model.
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

    /// Limits that no model exceeds. They are checked before anything is computed from them: within
    /// them no product overflows, and no list of parameters fills the memory.
    fn check_limits(&self) -> Result<()> {
        let (v, t) = (&self.vision_cfg, &self.text_cfg);
        let depth = v.layers.stages().iter().copied().max();
        let limits = [
            ("embed_dim", self.embed_dim, 1 << 16),
            ("vision width", v.width, 1 << 16),
            ("vision layers", depth.unwrap_or(v.layers.blocks()), 1 << 10),
            ("image_size", v.image_size, 1 << 14),
            ("patch_size", v.patch_size.unwrap_or(0), 1 << 14),
            ("text width", t.width, 1 << 16),
            ("text layers", t.layers, 1 << 10),
            ("context_length", t.context_length, 1 << 16),
            ("vocab_size", t.vocab_size, 1 << 24),
        ];
        if let Some((name, value, limit)) = limits.iter().find(|(_, value, limit)| value > limit) {
            let rule = format!("{name} is {value}, more than the limit of {limit}");
            return Err(Error::Config(rule));
        }
        let ratios = [v.mlp_ratio, t.mlp_ratio];
        match ratios.iter().find(|r| !(0.0..=64.0).contains(*r)) {
            Some(ratio) => Err(Error::Config(format!(
                "mlp_ratio is {ratio}, outside 0 to 64"
            ))),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        self.check_limits()?;
        let (v, t) = (&self.vision_cfg, &self.text_cfg);
        let rules = [
            (self.embed_dim > 0, "embed_dim must be positive"),
            (
                v.width > 0 && (v.is_resnet() || v.layers.blocks() > 0),
                "vision width and layers must be positive",
            ),
            (
                !v.is_resnet() || v.layers.stages().iter().all(|&n| n > 0),
                "each of a ResNet's four stages needs a block",
            ),
            (
                !v.is_resnet() || v.width % 2 == 0,
                "a ResNet's width must be even",
            ),
            (
                v.is_resnet() || v.patch_size.is_some_and(|p| p > 0),
                "patch_size must be positive",
            ),
            (
                t.width > 0 && t.layers > 0,
                "text width and layers must be positive",
            ),
            (
                v.head_width > 0 && v.token_width() % v.head_width == 0,
                "vision width (of a ResNet, 32 times that) must be a multiple of head_width",
            ),
            (
                v.cell() > 0 && v.image_size >= v.cell(),
                "image_size must hold a patch (of a ResNet, 32 pixels)",
            ),
            (
                v.cell() > 0 && v.image_size % v.cell() == 0,
                "image_size must be a multiple of patch_size (of a ResNet, of 32)",
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
                t.vocab_size > 2,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vision: &str, text: &str) -> Result<ClipConfig> {
        ClipConfig::from_json(&format!(
            r#"{{"embed_dim": 8, "vision_cfg": {{{vision}}}, "text_cfg": {{{text}}}}}"#
        ))
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(parse("", "").is_ok());
        for (vision, text) in [
            (
                r#""width": 18446744073709551615, "layers": [1, 1, 1, 1]"#,
                "",
            ),
            (r#""layers": 99999999999"#, ""),
            (r#""layers": [1, 1, 99999999999, 1]"#, ""),
            (r#""image_size": 9223372036854775808, "patch_size": 2"#, ""),
            (r#""mlp_ratio": 1e300"#, ""),
            ("", r#""layers": 99999999999"#),
            ("", r#""context_length": 9223372036854775807"#),
            ("", r#""mlp_ratio": -1.0"#),
        ] {
            let error = parse(vision, text).unwrap_err().to_string();
            let said = error.contains("limit") || error.contains("mlp_ratio");
            assert!(said, "{vision} {text}: {error}");
        }
    }
}
