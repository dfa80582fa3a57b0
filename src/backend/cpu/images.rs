//! Pixels to normalised values.

use super::Cpu;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::tensor;
use crate::backend::{Images, Result, shape_error};
use crate::tensor::{Normalisation, Tensor};

impl Images for Cpu {
    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor> {
        if shape.last() != Some(&3) {
            return shape_error(
                "images",
                format!("{shape:?}, where three channels come last"),
            );
        }
        let table = by.table();
        let mut values = Memory::zeros(pixels.len());
        over_rows(&mut values, 3, |first, values| {
            let pixels = pixels[3 * first..].chunks_exact(3);
            for (values, pixel) in values.chunks_exact_mut(3).zip(pixels) {
                for ((value, &pixel), table) in values.iter_mut().zip(pixel).zip(&table) {
                    *value = table[usize::from(pixel)];
                }
            }
        });
        Ok(tensor(shape, values))
    }
}
