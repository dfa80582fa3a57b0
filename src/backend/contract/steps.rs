//! Steps of training, which a device may run as one piece.

use super::Info;
use crate::backend::Result;

/// Marks what recurs.
pub trait Steps: Info {
    /// What is asked from here to [`Steps::end_step`] will be asked again and again: a step of training, or a part of
    /// one. A device may hold it back and run all of it at the end.
    fn begin_step(&self) -> Result<()> {
        Ok(())
    }

    /// The end of what [`Steps::begin_step`] began, also of a step that failed.
    fn end_step(&self) -> Result<()> {
        Ok(())
    }

    /// Steps and parts of steps so far that the device ran as one piece, since it had met the same before.
    fn replays(&self) -> u64 {
        0
    }

    /// What there is to say at the end of a run: the memory that tensors took, and what was replayed.
    fn account(&self) -> Option<String> {
        None
    }
}
