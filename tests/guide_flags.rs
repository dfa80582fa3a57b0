//! The guide's page of flags is in step with the programs.

use clip_distill::programs::flags_page;
use std::path::Path;

#[test]
fn the_page_is_what_the_programs_take() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(flags_page::FILE);
    let want = flags_page::page();
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    let got = std::fs::read_to_string(&path).unwrap_or_default();
    let line = got.lines().zip(want.lines()).position(|(a, b)| a != b);
    assert!(
        got == want,
        "{} is out of step with the programs at line {}; run: UPDATE_GUIDE=1 cargo test --test guide_flags",
        path.display(),
        line.unwrap_or_else(|| got.lines().count().min(want.lines().count())) + 1
    );
}
