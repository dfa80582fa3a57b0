//! Images of any format, and what evaluation and training make of them.
#![no_main]

use clip_distill::data::{Alpha, Augment, Decoding, Speed, Transform};
use clip_distill::tensor::rng::{Philox, Purpose};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let exact = Decoding {
        max_pixels: 1 << 20,
        ..Decoding::default()
    };
    let fast = Decoding {
        speed: Speed::Fast,
        alpha: Alpha::White,
        ..exact
    };
    for decoding in [exact, fast] {
        let Ok(image) = decoding.decode(bytes) else {
            continue;
        };
        for augment in [Augment::None, Augment::Crop { scale: (0.1, 1.0) }] {
            let transform = Transform::new(16, augment).expect("a transform");
            let mut rng = Philox::new(0, Purpose::Test, 0, 0);
            let out = transform.pixels(&image, &mut rng);
            assert_eq!(out.pixels.len(), transform.len());
        }
    }
});
