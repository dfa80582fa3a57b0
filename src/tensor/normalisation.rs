//! How 8-bit pixels become the values of a tensor.

/// x = (v/255 − mean) / std, channel by channel (torchvision's `ToTensor` and `Normalize`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// In units of 1.
    pub mean: [f32; 3],
    /// In units of 1, positive.
    pub std: [f32; 3],
}

impl Normalisation {
    /// OpenAI's, open_clip's default.
    pub const OPENAI: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// The value of `pixel` in a channel, 0 to 2.
    pub fn value(&self, channel: usize, pixel: u8) -> f32 {
        (f32::from(pixel) / 255.0 - self.mean[channel]) / self.std[channel]
    }

    /// [`Normalisation::value`] of every pixel value: a table gives the same bits as the formula.
    pub fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| std::array::from_fn(|v| self.value(c, v as u8)))
    }
}

impl Default for Normalisation {
    fn default() -> Self {
        Self::OPENAI
    }
}
