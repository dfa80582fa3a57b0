//! Weights in safetensors.
#![no_main]

use clip_distill::io;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = io::read_bytes(Path::new("fuzz"), bytes) {
        for entry in &file.entries {
            if let Some(values) = entry.as_f32() {
                assert_eq!(values.len(), entry.shape.iter().product::<usize>());
            }
        }
    }
});
