//! Captions through the tokenizer.
#![no_main]

use clip_distill::data::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::clip);

fuzz_target!(|text: &str| {
    let ids = TOKENIZER.encode(text, 77);
    assert!((2..=77).contains(&ids.len()));
    assert_eq!(ids[0], TOKENIZER.start_token());
    assert_eq!(ids[ids.len() - 1], TOKENIZER.end_token());
    let size = TOKENIZER.vocab_size() as i32;
    assert!(ids.iter().all(|id| (0..size).contains(id)));
    let _ = TOKENIZER.decode(&ids);
});
