//! Which texts of a sample are its captions: one rule, for training and evaluation alike.

use serde_json::Value;

use super::json;
use crate::data::options::{CaptionSource, DatasetOptions};
use crate::data::skips::{SkipKind, Skips};

/// All captions of a sample.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Captions {
    /// None is blank.
    pub texts: Vec<String>,
    /// How often each is drawn, in proportion; empty for equally often.
    pub weights: Vec<f32>,
}

impl From<Vec<String>> for Captions {
    fn from(texts: Vec<String>) -> Self {
        let weights = Vec::new();
        Self { texts, weights }
    }
}

/// What a sample brings beside its image.
pub(super) struct Texts<'a> {
    /// Where it is, for messages.
    pub place: &'a str,
    /// The content of each member that may hold a caption, the preferred one first.
    pub members: &'a [Vec<u8>],
    /// The JSON member.
    pub json: Option<&'a [u8]>,
}

/// The captions of a sample, and its JSON.
///
/// # Errors
/// Why there is none; the JSON is given even then.
pub(super) fn read(
    texts: &Texts<'_>,
    options: &DatasetOptions,
    skips: &mut Skips,
) -> (Result<Captions, SkipKind>, Option<Value>) {
    let (json, broken) = match texts.json.map(json::parse) {
        Some(Ok((value, lenient))) => {
            if lenient {
                skips.add(SkipKind::LenientJson, || texts.place.to_owned());
            }
            (Some(value), false)
        }
        Some(Err(_)) => (None, true),
        None => (None, false),
    };
    let mut search = Search {
        texts,
        json: json.as_ref(),
        lines: options.caption_lines,
        skips,
        fault: broken.then_some(SkipKind::MalformedJson),
    };
    let found = match &options.captions {
        CaptionSource::Usual => search.usual(),
        CaptionSource::Members(_) => search.members().map(|found| search.text(found)),
        CaptionSource::Json { keys, weights } => search.keyed(keys, weights),
    };
    let fault = search.fault;
    if broken && found.is_some() {
        skips.add(SkipKind::IgnoredJson, || texts.place.to_owned());
    }
    let found = found.ok_or(fault.unwrap_or(SkipKind::MissingCaption));
    (found, json)
}

struct Search<'a, 's> {
    texts: &'a Texts<'a>,
    json: Option<&'a Value>,
    lines: bool,
    skips: &'s mut Skips,
    /// The first reason why a source gave nothing.
    fault: Option<SkipKind>,
}

impl Search<'_, '_> {
    /// A list under `captions`, else the text, else the JSON's `caption`.
    fn usual(&mut self) -> Option<Captions> {
        let listed = self.value("captions");
        let text = self.members();
        let single = self.value("caption");
        let chosen = match (&listed, &text) {
            (Some(list), _) => list.clone(),
            (None, Some(text)) => text.clone(),
            (None, None) => single.clone()?,
        };
        let others = [
            ("captions", &listed),
            ("the text", &text),
            ("caption", &single),
        ];
        for (name, other) in others {
            // An excerpt of the list says nothing else than the list.
            let new = other.iter().flatten().find(|t| !chosen.contains(t));
            if let Some(new) = new {
                let place = self.texts.place;
                self.skips.add(SkipKind::OtherCaption, || {
                    let read = excerpt(chosen.first().map_or("", String::as_str));
                    format!("{place}: \"{read}\" is read; {name}: \"{}\"", excerpt(new))
                });
            }
        }
        Some(match listed {
            None if text.is_some() => self.text(chosen),
            _ => Captions::from(chosen),
        })
    }

    /// The first member with a text in it.
    fn members(&mut self) -> Option<Vec<String>> {
        for bytes in self.texts.members {
            let Ok(text) = std::str::from_utf8(bytes) else {
                self.fault.get_or_insert(SkipKind::NonUtf8Caption);
                continue;
            };
            let found = if self.lines {
                filled(text.lines())
            } else {
                filled([text])
            };
            if found.is_empty() {
                self.fault.get_or_insert(SkipKind::EmptyCaption);
                continue;
            }
            return Some(found);
        }
        None
    }

    /// The text of a member as captions.
    fn text(&mut self, found: Vec<String>) -> Captions {
        let lines = |text: &String| text.lines().filter(|l| !l.trim().is_empty()).count();
        if found.iter().any(|text| lines(text) > 1) {
            self.skips
                .add(SkipKind::SeveralLines, || self.texts.place.to_owned());
        }
        Captions::from(found)
    }

    /// The texts under a key of the JSON: a string, or a list of strings.
    fn value(&mut self, key: &str) -> Option<Vec<String>> {
        let found = match self.json?.get(key)? {
            Value::String(one) => filled([one.as_str()]),
            Value::Array(all) => filled(all.iter().filter_map(Value::as_str)),
            // null, as tables without a value have it, and numbers.
            _ => return None,
        };
        if found.is_empty() {
            self.fault.get_or_insert(SkipKind::EmptyCaption);
            return None;
        }
        Some(found)
    }

    /// Without weights the first key with a text. With weights those of all keys of positive weight, which
    /// share it among their texts; if none of these has a text, the first of the others.
    ///
    /// open_clip orders the keys by drawing them without replacement, each with a chance in proportion to its
    /// weight, and takes the first with a text. The first drawn among the keys that have one is any of them
    /// with a chance in proportion to its weight, which is what is drawn here.
    fn keyed(&mut self, keys: &[String], weights: &[f32]) -> Option<Captions> {
        let mut captions = Captions::default();
        let mut fallback = None;
        for (i, key) in keys.iter().enumerate() {
            let weight = weights.get(i).copied().unwrap_or(0.0);
            if weights.is_empty() || weight <= 0.0 {
                if fallback.is_none() {
                    fallback = self.value(key);
                }
                continue;
            }
            let Some(texts) = self.value(key) else {
                continue;
            };
            let each = weight / texts.len() as f32;
            captions.weights.extend(texts.iter().map(|_| each));
            captions.texts.extend(texts);
        }
        if captions.texts.is_empty() {
            return fallback.map(Captions::from);
        }
        Some(captions)
    }
}

/// Those that are not blank, without the blanks around them.
fn filled<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let trimmed = texts.into_iter().map(str::trim);
    let kept = trimmed.filter(|t| !t.is_empty());
    kept.map(str::to_owned).collect()
}

/// The beginning of a text, for a message.
fn excerpt(text: &str) -> String {
    const MOST: usize = 40;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
