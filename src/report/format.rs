//! What the parts of the page write alike.

/// Colours of runs; the next one begins anew.
const COLOURS: usize = 4;

/// The colour of a run.
pub(super) fn colour(run: usize) -> usize {
    run % COLOURS
}

/// A share in per cent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
