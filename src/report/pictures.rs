//! Nearest neighbours as pictures, model under model.

use super::Pictures;
use super::format::percent;
use crate::eval::Picture;
use html_escape::{encode_double_quoted_attribute as attribute, encode_text as text};
use std::fmt::Write;

/// The section's content.
pub fn section(pictures: &Pictures) -> String {
    let found = &pictures.neighbours;
    let Some(first) = found.models.first() else {
        return String::new();
    };
    let mut out = format!(
        "<p>Images of {}, and the five of {} that are nearest to each by the cosine of their features, after \
         step {}.",
        text(&found.set),
        found.gallery,
        pictures.step
    );
    let others: Vec<_> = found.models.iter().zip(&found.agreement).skip(1).collect();
    if !others.is_empty() {
        let shares: Vec<String> = others
            .iter()
            .map(|(name, share)| format!("{} {}", text(name), percent(**share)))
            .collect();
        let _ = write!(
            out,
            " Framed: also among the five of the {}. Over all {} images, so many of the {}'s five are found: {}.",
            text(first),
            found.gallery,
            text(first),
            shares.join(", ")
        );
    }
    out.push_str("</p><div class=\"queries\">");
    for query in &found.queries {
        let _ = write!(
            out,
            r#"<article class="query"><figure>{}<figcaption>{}</figcaption></figure><div>"#,
            image(&query.picture, &query.picture.caption, ""),
            text(&query.picture.caption)
        );
        for (i, (model, nearest)) in found.models.iter().zip(&query.nearest).enumerate() {
            let _ = write!(out, r#"<div class="near"><h4>{}</h4><div>"#, text(model));
            for near in nearest {
                let words = format!("{}, cosine {:.2}", near.picture.caption, near.similarity);
                let class = if i > 0 && near.shared { "shared" } else { "" };
                out.push_str(&image(&near.picture, &words, class));
            }
            out.push_str("</div></div>");
        }
        out.push_str("</div></article>");
    }
    out + "</div>"
}

fn image(picture: &Picture, words: &str, class: &str) -> String {
    let words = match class {
        "" => words.to_string(),
        _ => format!("{words}, {class}"),
    };
    format!(
        r#"<img class="{class}" src="{}" alt="{words}" title="{words}">"#,
        attribute(&picture.uri),
        words = attribute(&words)
    )
}
