//! Ctrl-C: the first asks the loop to stop after its step, the second quits at once.

use crate::notices::notice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static ASKED: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// Catches SIGINT, SIGTERM and SIGHUP from here on. Where that is impossible they keep their usual
/// effect.
pub fn install() {
    INSTALLED.get_or_init(|| {
        let _ = ctrlc::set_handler(|| {
            if ASKED.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(130);
            }
            notice("stopping after this step; once more to quit at once");
        });
    });
}

/// Whether the run was asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) > 0
}
