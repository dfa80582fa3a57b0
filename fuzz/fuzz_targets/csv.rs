//! Tables of image paths and captions. The first byte chooses the separator.
#![no_main]

use clip_distill::data::csv::{self, CsvOptions};
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, table)) = bytes.split_first() else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(table).expect("a temporary file");
    let options = CsvOptions {
        image_key: "filepath".into(),
        caption_key: "title".into(),
        separator: [None, Some('\t'), Some(',')][usize::from(first % 3)],
        data_root: None,
    };
    let _ = csv::read(file.path(), &options);
});
