//! What the library says while it works. It prints nothing itself: a program, or anybody else, listens.
//!
//! - [`listen_everywhere`]: what any thread says, until the process ends. The programs print it.
//! - [`listen`]: what this thread says, until the returned guard is dropped. A run can keep its own notices
//!   so, whatever other threads do.
//!
//! Without a listener nothing is heard, and nothing fails.
//!
//! ```
//! use clip_distill::notices::{self, Event, Listener};
//! use std::sync::{Arc, Mutex};
//!
//! #[derive(Default)]
//! struct Kept(Mutex<Vec<String>>);
//!
//! impl Listener for Kept {
//!     fn hear(&self, event: &Event) {
//!         self.0.lock().unwrap().extend(event.line().map(str::to_owned));
//!     }
//! }
//!
//! let kept = Arc::new(Kept::default());
//! let listening = notices::listen(kept.clone());
//! notices::warning("3 images cannot be read");
//! drop(listening);
//! notices::notice("nobody listens any more");
//! assert_eq!(*kept.0.lock().unwrap(), ["3 images cannot be read"]);
//! ```

use std::cell::RefCell;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

/// One thing said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A line worth knowing: which device, what an evaluation found, where a file is.
    Notice(&'a str),
    /// A line about what was ignored, replaced, changed or lost.
    Warning(&'a str),
    /// Progress: a run begins, or continues after `done` of its `total` steps.
    Begin {
        /// The run's name on the screen.
        label: &'a str,
        /// Steps done before.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// Progress: a step of the run that began last is done.
    Step {
        /// Steps done.
        step: u64,
        /// Its losses and the speed.
        words: &'a str,
        /// A whole line, for every `--log-every`-th step.
        line: Option<&'a str>,
    },
    /// Progress: that run is over.
    End,
}

impl<'a> Event<'a> {
    /// The line that a log would keep, if the event is worth one.
    pub fn line(&self) -> Option<&'a str> {
        match *self {
            Self::Notice(line) | Self::Warning(line) => Some(line),
            Self::Step { line, .. } => line,
            Self::Begin { .. } | Self::End => None,
        }
    }
}

/// Somebody who listens.
pub trait Listener: Send + Sync {
    /// Called by the thread that says it, before it goes on. It must not say anything itself.
    fn hear(&self, event: &Event);
}

static EVERYWHERE: OnceLock<Arc<dyn Listener>> = OnceLock::new();

thread_local! {
    static HERE: RefCell<Vec<Arc<dyn Listener>>> = const { RefCell::new(Vec::new()) };
}

/// `listener` hears what every thread says from here on. Only the first one of a process does; the answer says
/// whether it is this one.
pub fn listen_everywhere(listener: Arc<dyn Listener>) -> bool {
    EVERYWHERE.set(listener).is_ok()
}

/// `listener` hears what this thread says, beside others that listen, until the guard is dropped.
pub fn listen(listener: Arc<dyn Listener>) -> Listening {
    HERE.with_borrow_mut(|all| all.push(listener.clone()));
    Listening {
        listener,
        thread: PhantomData,
    }
}

/// See [`listen`]. It stays in its thread.
#[must_use = "nothing is heard after it is dropped"]
pub struct Listening {
    listener: Arc<dyn Listener>,
    thread: PhantomData<*const ()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|all| {
            let mine = all.iter().rposition(|l| Arc::ptr_eq(l, &self.listener));
            mine.map(|i| all.remove(i))
        });
    }
}

/// Passes `event` to all who listen.
pub fn tell(event: &Event) {
    if let Some(listener) = EVERYWHERE.get() {
        listener.hear(event);
    }
    HERE.with_borrow(|all| all.iter().for_each(|listener| listener.hear(event)));
}

/// Says a line worth knowing.
pub fn notice(line: impl Display) {
    tell(&Event::Notice(&line.to_string()));
}

/// Says what was ignored, replaced, changed or lost.
pub fn warning(line: impl Display) {
    tell(&Event::Warning(&line.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Kept {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Listener for Kept {
        fn hear(&self, event: &Event) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }

    #[test]
    fn a_listener_hears_its_thread_while_it_listens() {
        let (outer, inner) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
        let of_outer = listen(outer.clone());
        {
            let _of_inner = listen(inner.clone());
            notice("a");
            std::thread::scope(|scope| scope.spawn(|| notice("elsewhere")).join().unwrap());
        }
        warning(format_args!("{} b", 2));
        drop(of_outer);
        notice("c");
        assert_eq!(inner.take(), ["Notice(\"a\")"]);
        assert_eq!(outer.take(), ["Notice(\"a\")", "Warning(\"2 b\")"]);
    }

    #[test]
    fn the_lines_of_a_log() {
        let step = |line| Event::Step {
            step: 1,
            words: "loss 2",
            line,
        };
        assert_eq!(
            step(Some("r step 1/2 loss 2")).line(),
            Some("r step 1/2 loss 2")
        );
        for silent in [step(None), Event::End] {
            assert_eq!(silent.line(), None);
        }
    }
}
