//! Webdataset shards, plain and compressed: every sample that comes out is decoded.
#![no_main]

use clip_distill::data::pattern::ShardSource;
use clip_distill::data::{DatasetOptions, Skips, webdataset};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file");
    let source = ShardSource::Path(file.path().to_path_buf());
    let mut skips = Skips::default();
    let options = DatasetOptions::default();
    webdataset::read(&source, &options, &mut skips, &mut |sample| {
        let _ = sample.pixels(&options.decoding, false);
        ControlFlow::Continue(())
    })
    .expect("the file is there");
});
