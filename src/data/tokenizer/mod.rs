//! The byte-pair tokenizer of OpenAI's CLIP.
//!
//! The same ids as the reference for the same text: cleaning, cut into words, byte-pair encoding.
//! What of the reference's text repair is covered is said in `clean.rs`; everything else is exact.
//! Small models may cut the merge list short ([`Tokenizer::with_vocab_size`]), as otherwise their
//! embedding table would be most of the model.

mod bpe;
mod clean;
mod html;
mod words;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use self::bpe::{BYTE_TOKENS, MERGES};

/// Tokens beside bytes and merges: start and end of text.
const SPECIALS: usize = 2;
/// The vocabulary without a single merge.
const MIN_VOCAB: usize = BYTE_TOKENS + SPECIALS;
/// CLIP's vocabulary.
const MAX_VOCAB: usize = BYTE_TOKENS + MERGES + SPECIALS;

/// Independent parts of the word cache, so that loader threads seldom wait for one another.
const SHARDS: usize = 16;
/// Words remembered per part. Captions draw on some ten thousand words; what comes after a part
/// is full is rare, and encoded each time.
const WORDS_PER_SHARD: usize = 8192;
/// Longer words are not worth remembering.
const CACHED_WORD: usize = 64;

/// Captions to the tokens of a model's vocabulary and context, each from the start token to the first
/// end token, unpadded.
///
/// # Errors
/// As [`Tokenizer::with_vocab_size`].
pub fn for_captions(vocab_size: usize, context: usize) -> Result<super::Tokenizer, Error> {
    let bpe = Tokenizer::with_vocab_size(vocab_size)?;
    Ok(std::sync::Arc::new(move |caption: &str| {
        let mut ids = bpe.encode(caption, context);
        // open_clip reads a text's feature at its first end token, even if one is spelled out in
        // the caption.
        if let Some(end) = ids.iter().position(|&id| id == bpe.end_token()) {
            ids.truncate(end + 1);
        }
        ids
    }))
}

/// What can be wrong with a tokenizer's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such vocabulary can be cut from CLIP's.
    #[error(
        "vocabulary size {0} is not possible: CLIP's tokenizer has {MAX_VOCAB} tokens and can be \
         cut short to no fewer than {MIN_VOCAB}"
    )]
    VocabSize(usize),
}

type Shard = RwLock<HashMap<Box<str>, Box<[i32]>>>;

/// CLIP's tokenizer, with the full vocabulary or one cut short. Shared freely between threads.
#[derive(Debug)]
pub struct Tokenizer {
    vocab_size: usize,
    /// What words became, by a hash of the word.
    cache: [Shard; SHARDS],
    hasher: RandomState,
}

impl Tokenizer {
    /// CLIP's own vocabulary of 49 408 tokens.
    pub fn clip() -> Tokenizer {
        Tokenizer::of_size(MAX_VOCAB)
    }

    /// CLIP's vocabulary with its merge list cut short: 512 bytes, the first `n - 514` merges, and
    /// the start and end tokens as the last two ids. `n` is from 514 to 49 408.
    ///
    /// # Errors
    /// [`Error::VocabSize`] outside that range.
    pub fn with_vocab_size(n: usize) -> Result<Tokenizer, Error> {
        if (MIN_VOCAB..=MAX_VOCAB).contains(&n) {
            Ok(Tokenizer::of_size(n))
        } else {
            Err(Error::VocabSize(n))
        }
    }

    fn of_size(vocab_size: usize) -> Tokenizer {
        Tokenizer {
            vocab_size,
            cache: std::array::from_fn(|_| Shard::default()),
            hasher: RandomState::new(),
        }
    }

    /// How many tokens there are, the two special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id that begins every encoded text.
    pub fn start_token(&self) -> i32 {
        (self.vocab_size - 2) as i32
    }

    /// The id that ends every encoded text (EOT); the highest of all.
    pub fn end_token(&self) -> i32 {
        (self.vocab_size - 1) as i32
    }

    /// The tokens of a text, without start and end.
    ///
    /// `<|startoftext|>` and `<|endoftext|>` in the text become the special tokens, as the
    /// reference has it.
    pub fn tokens(&self, text: &str) -> Vec<i32> {
        let mut out = Vec::new();
        self.append(text, usize::MAX, &mut out);
        out
    }

    /// Start token, the tokens of the text, end token; at most `context_length` in all, of which
    /// the last is the end token however long the text. Not padded.
    pub fn encode(&self, text: &str, context_length: usize) -> Vec<i32> {
        let mut out = vec![self.start_token()];
        self.append(text, context_length, &mut out);
        out.truncate(context_length.saturating_sub(1));
        if context_length > 0 {
            out.push(self.end_token());
        }
        out
    }

    /// The text that tokens stand for: lower-cased, a space after every word, special tokens
    /// spelled out. Invalid UTF-8 (a character cut in half) becomes U+FFFD, and ids that are
    /// not in the vocabulary are left out.
    pub fn decode(&self, tokens: &[i32]) -> String {
        let merges = bpe::merges();
        let mut bytes = Vec::new();
        for &token in tokens {
            if token == self.start_token() {
                bytes.extend_from_slice(words::START.as_bytes());
            } else if token == self.end_token() {
                bytes.extend_from_slice(words::END.as_bytes());
            } else if token < self.start_token()
                && let Some((part, ends_word)) =
                    usize::try_from(token).ok().and_then(|t| merges.token(t))
            {
                bytes.extend_from_slice(part);
                if ends_word {
                    bytes.push(b' ');
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Appends the text's tokens until `out` holds `enough`, to the end of the word.
    fn append(&self, text: &str, enough: usize, out: &mut Vec<i32>) {
        let text = clean::clean(text);
        for word in words::words(&text) {
            if out.len() >= enough {
                break;
            }
            match word {
                words::START => out.push(self.start_token()),
                words::END => out.push(self.end_token()),
                _ => self.append_word(word, out),
            }
        }
    }

    fn append_word(&self, word: &str, out: &mut Vec<i32>) {
        let encode = || bpe::merges().encode(word.as_bytes(), self.start_token());
        if word.len() > CACHED_WORD {
            out.extend(encode());
            return;
        }
        let shard = &self.cache[self.hasher.hash_one(word) as usize % SHARDS];
        // A thread that panicked elsewhere cannot have left half an entry: a poisoned lock is good.
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = known.get(word) {
            out.extend_from_slice(ids);
            return;
        }
        drop(known);
        let ids = encode();
        out.extend_from_slice(&ids);
        let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < WORDS_PER_SHARD {
            known.insert(word.into(), ids.into());
        }
    }
}

#[cfg(test)]
mod tests;
