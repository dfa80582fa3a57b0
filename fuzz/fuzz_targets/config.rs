//! Model configurations (open_clip's JSON), run configurations (TOML) and shard patterns.
#![no_main]

use clip_distill::data::pattern;
use clip_distill::model::{Clip, ClipConfig};
use clip_distill::settings::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = ClipConfig::from_json(text) {
        // What is accepted must be a model whose parameters can be listed.
        let _ = Clip::new(config).parameter_shapes();
    }
    let _ = Config::from_toml(text);
    let _ = pattern::braces(text);
});
