//! Against OpenAI's own answers, and the properties that hold for every text and vocabulary.

use std::io::Read;

use proptest::prelude::*;

use super::*;

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    #[serde(alias = "openai_clip_tokens")]
    tokens: Vec<i32>,
}

fn reference() -> Vec<Case> {
    let packed = include_bytes!("../../../tests/fixtures/tokenizer/openai_tokens.jsonl.gz");
    let mut lines = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut lines)
        .unwrap();
    lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn equals_openai() {
    let tokenizer = Tokenizer::clip();
    let peers = include_str!("../../../tests/fixtures/tokenizer/peer_cases.json");
    let mut cases = reference();
    assert_eq!(cases.len(), 2440);
    cases.extend(serde_json::from_str::<Vec<Case>>(peers).unwrap());
    let wrong: Vec<_> = cases
        .iter()
        .filter(|c| tokenizer.tokens(&c.text) != c.tokens)
        .map(|c| (&c.text, &c.tokens, tokenizer.tokens(&c.text)))
        .collect();
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}

#[test]
fn special_tokens() {
    let t = Tokenizer::clip();
    assert_eq!(
        (t.start_token(), t.end_token(), t.vocab_size()),
        (49_406, 49_407, 49_408)
    );
    assert_eq!(
        t.tokens("<|startoftext|>Hi<|endoftext|>"),
        [49_406, 1883, 49_407]
    );
    assert_eq!(t.encode("", 77), [49_406, 49_407]);
    assert_eq!(t.encode(" \n", 77), [49_406, 49_407]);
}

#[test]
fn truncation_keeps_the_end() {
    let t = Tokenizer::clip();
    let whole = t.encode("a photo of a cat, and a dog", 77);
    assert_eq!(whole.len(), 11);
    assert_eq!(t.encode("a photo of a cat, and a dog", 11), whole);
    for n in 1..whole.len() {
        let cut = t.encode("a photo of a cat, and a dog", n);
        assert_eq!(cut.len(), n);
        assert_eq!(cut[..n - 1], whole[..n - 1]);
        assert_eq!(cut[n - 1], t.end_token());
    }
    assert_eq!(t.encode("a", 0), [0; 0]);
}

#[test]
fn decodes() {
    let t = Tokenizer::clip();
    assert_eq!(
        t.decode(&t.tokens("A cat's 12 cafés 😀")),
        "a cat 's 1 2 cafés 😀 "
    );
    assert_eq!(
        t.decode(&t.encode("Hi", 77)),
        "<|startoftext|>hi <|endoftext|>"
    );
    assert_eq!(t.decode(&[-1, i32::MAX, 49_408]), "");
}

#[test]
fn vocabulary_sizes() {
    for n in [0, 513, 49_409, usize::MAX] {
        assert_eq!(
            Tokenizer::with_vocab_size(n).unwrap_err(),
            Error::VocabSize(n)
        );
    }
    let bytes = Tokenizer::with_vocab_size(514).unwrap();
    assert_eq!(bytes.encode("cat", 77).len(), 5);
    let full = Tokenizer::with_vocab_size(49_408).unwrap();
    assert_eq!(
        full.tokens("a granite design"),
        Tokenizer::clip().tokens("a granite design")
    );
}

#[test]
fn shorter_vocabularies_spell_the_same_text() {
    let full = Tokenizer::clip();
    for n in [514, 515, 1024, 4096, 49_408] {
        let cut = Tokenizer::with_vocab_size(n).unwrap();
        for case in reference().iter().step_by(7) {
            let ids = cut.encode(&case.text, usize::MAX);
            assert!(ids.iter().all(|&id| (0..n as i32).contains(&id)));
            assert_eq!(
                cut.decode(&ids),
                full.decode(&full.encode(&case.text, usize::MAX))
            );
        }
    }
}

#[test]
fn a_hostile_word_takes_no_time() {
    let t = Tokenizer::clip();
    for unit in ["a", "ab", "😀", "'", "日", "<|"] {
        assert!(!t.tokens(&unit.repeat(200_000)).is_empty());
    }
}

proptest! {
    #[test]
    fn any_text_has_tokens(text in any::<String>(), context in 0usize..100) {
        let t = Tokenizer::with_vocab_size(1000).unwrap();
        let ids = t.encode(&text, context);
        prop_assert!(ids.len() <= context);
        prop_assert!(ids.iter().all(|&id| (0..1000).contains(&id)));
        prop_assert_eq!(ids.last().copied(), (context > 0).then_some(999));
        prop_assert_eq!(&t.encode(&text, context), &ids);
    }
}

/// `cargo test --release --lib tokenizer::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let cases = reference();
    let t = Tokenizer::clip();
    for round in 0..5 {
        let began = std::time::Instant::now();
        let tokens: usize = cases.iter().map(|c| t.encode(&c.text, 77).len()).sum();
        let rate = cases.len() as f64 / began.elapsed().as_secs_f64();
        println!("round {round}: {rate:.0} texts/s, {tokens} tokens");
    }
}
