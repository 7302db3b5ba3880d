//! The batch class makes way at once: a step that computes for nobody else is broken off when somebody else comes, and begun anew
//! later.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use llama_cpp_2::context::params::LlamaContextParams;

use crate::types::Class;

/// Of the time in which higher classes are served, the batch class gets one part in so many, so that it comes to an end.
const ONE_IN: u32 = 10;
/// What a step with everybody in it takes is not known before the first one.
const FIRST_GUESS: Duration = Duration::from_millis(100);

/// What an engine's thread and those who send it requests share.
#[derive(Debug, Default)]
pub(super) struct Urgency {
    /// Requests of higher classes that the engine has not seen yet.
    waiting: AtomicUsize,
    /// What is computed now is of the batch class alone.
    yields: AtomicBool,
}

/// A request that the engine has not seen yet.
#[derive(Debug)]
pub(super) struct Waits(Arc<Urgency>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Urgency {
    /// A request of this class is on its way, until what is given is dropped.
    pub(super) fn announce(self: &Arc<Self>, class: Class) -> Option<Waits> {
        (class > Class::Batch).then(|| {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            Waits(Arc::clone(self))
        })
    }

    /// What is computed from now on may be broken off, or may not.
    pub(super) fn set_yields(&self, yields: bool) {
        self.yields.store(yields, Ordering::Release);
    }

    fn breaks_off(&self) -> bool {
        self.yields.load(Ordering::Acquire) && self.waiting.load(Ordering::Acquire) > 0
    }
}

/// llama.cpp asks between two of a step's operations.
#[expect(unsafe_code, reason = "it is called from C++")]
unsafe extern "C" fn breaks_off(urgency: *mut c_void) -> bool {
    // SAFETY: `ask` gave this pointer, to what outlives the context. Only atomics of it are read.
    unsafe { &*urgency.cast::<Urgency>() }.breaks_off()
}

/// Lets a context's steps be broken off. The urgency has to live as long as the context.
#[expect(unsafe_code, reason = "llama-cpp-2 does not wrap abort_callback")]
pub(super) fn ask(parameters: &mut LlamaContextParams, urgency: &Arc<Urgency>) {
    type Inner = llama_cpp_sys_2::llama_context_params;
    const {
        assert!(size_of::<LlamaContextParams>() == size_of::<Inner>());
        assert!(align_of::<LlamaContextParams>() == align_of::<Inner>());
    }
    let inner = (&raw mut *parameters).cast::<Inner>();
    // SAFETY: the type holds this one field, of its own size, so that is what lies there. Two plain fields of it are written.
    unsafe {
        (*inner).abort_callback = Some(breaks_off);
        (*inner).abort_callback_data = Arc::as_ptr(urgency).cast_mut().cast();
    }
}

/// Who takes part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Everybody.
    All,
    /// Everybody but the batch class.
    Urgent,
}

/// Whose turn it is, where higher classes are served.
#[derive(Debug)]
pub(super) struct Turns {
    /// Time that the batch class has earned.
    earned: Duration,
    /// What a step with everybody took lately.
    all: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            earned: Duration::ZERO,
            all: FIRST_GUESS,
        }
    }
}

impl Turns {
    pub(super) fn next(&self, urgent: bool) -> Turn {
        if urgent && self.earned < self.all {
            Turn::Urgent
        } else {
            Turn::All
        }
    }

    /// A step of this turn took so long, and was not broken off.
    pub(super) fn took(&mut self, turn: Turn, urgent: bool, time: Duration) {
        match turn {
            Turn::Urgent => self.earned += time / ONE_IN,
            // Without anybody else it costs nobody anything.
            Turn::All if urgent => {
                self.earned = Duration::ZERO;
                self.all = time;
            }
            Turn::All => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_batch_class_alone_is_broken_off_while_somebody_else_waits() {
        let urgency = Arc::new(Urgency::default());
        assert!(urgency.announce(Class::Batch).is_none());
        let waits = urgency.announce(Class::Standard);
        assert!(!urgency.breaks_off(), "others take part");
        urgency.set_yields(true);
        assert!(urgency.breaks_off());
        drop(waits);
        assert!(!urgency.breaks_off());
    }

    #[test]
    fn the_batch_class_gets_its_part_of_the_time() {
        let mut turns = Turns::default();
        let (mut urgent, mut all) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..10_000 {
            let turn = turns.next(true);
            let time = Duration::from_millis(if turn == Turn::All { 80 } else { 10 });
            turns.took(turn, true, time);
            *(if turn == Turn::All {
                &mut all
            } else {
                &mut urgent
            }) += time;
        }
        let part = all.as_secs_f64() / (all + urgent).as_secs_f64();
        assert!((part - 1.0 / 11.0).abs() < 0.01, "{part}");
        assert_eq!(turns.next(false), Turn::All);
    }
}
