use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// How far one attempt has come, shared by the worker that counts and the meter that bills.
///
/// The meter may close it at any moment (the client went): what was counted until then is billed, and
/// what the worker adds later is refused, so that both sides know the same number without waiting for
/// each other.
#[derive(Debug, Default)]
pub struct Progress {
    bits: AtomicU64,
    cached: AtomicU32,
    guessed: AtomicBool,
}

/// A reading of [`Progress`], in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The prompt, once the worker has taken it on; 0 before.
    pub prompt_tokens: u32,
    /// Of the prompt's tokens, those whose state was reused.
    pub cached_tokens: u32,
    /// Tokens generated so far.
    pub completion_tokens: u32,
}

const CLOSED: u64 = 1 << 63;
const PROMPT_SHIFT: u32 = 32;
const PROMPT_MASK: u64 = 0x7fff_ffff;

impl Progress {
    /// The worker takes on a prompt of this many tokens. False when closed: it need not start.
    pub fn start(&self, prompt_tokens: u32) -> bool {
        self.start_cached(prompt_tokens, 0)
    }

    /// As [`Progress::start`], where the state of so many of the tokens is reused.
    pub fn start_cached(&self, prompt_tokens: u32, cached_tokens: u32) -> bool {
        let taken = self.add(u64::from(prompt_tokens & 0x7fff_ffff) << PROMPT_SHIFT);
        if taken {
            // Closed right between the two, the prompt counts as computed.
            self.cached.fetch_add(cached_tokens, Ordering::AcqRel);
        }
        taken
    }

    /// The worker has generated one more token. False when closed: the token is nobody's.
    pub fn advance(&self) -> bool {
        self.add(1)
    }

    /// So many at once, where a count is brought over from another one. Together they are no more than a `u32`
    /// holds.
    pub fn advance_by(&self, tokens: u32) -> bool {
        self.add(tokens.into())
    }

    fn add(&self, amount: u64) -> bool {
        self.bits
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
                (value & CLOSED == 0).then(|| value + amount)
            })
            .is_ok()
    }

    /// Whether the numbers are the gateway's guess, since the worker has told none (yet).
    pub fn guess(&self, guessed: bool) {
        self.guessed.store(guessed, Ordering::Release);
    }

    /// As [`Progress::guess`] says.
    pub fn is_guessed(&self) -> bool {
        self.guessed.load(Ordering::Acquire)
    }

    /// The worker tells where it stands, in the place of what was counted. False when closed.
    pub fn tell(&self, count: Count) -> bool {
        let bits = u64::from(count.prompt_tokens & 0x7fff_ffff) << PROMPT_SHIFT
            | u64::from(count.completion_tokens);
        let told = self
            .bits
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
                (value & CLOSED == 0).then_some(bits)
            })
            .is_ok();
        if told {
            self.cached.store(count.cached_tokens, Ordering::Release);
        }
        told
    }

    /// Whether the meter has closed it.
    pub fn is_closed(&self) -> bool {
        self.bits.load(Ordering::Acquire) & CLOSED != 0
    }

    /// What stands so far.
    pub fn read(&self) -> Count {
        self.count(self.bits.load(Ordering::Acquire))
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are masked")]
    fn count(&self, bits: u64) -> Count {
        let prompt_tokens = ((bits >> PROMPT_SHIFT) & PROMPT_MASK) as u32;
        Count {
            prompt_tokens,
            cached_tokens: self.cached.load(Ordering::Acquire).min(prompt_tokens),
            completion_tokens: bits as u32,
        }
    }

    /// Ends the counting and gives the final count.
    pub fn close(&self) -> Count {
        self.count(self.bits.fetch_or(CLOSED, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_close_does_not_count() {
        let progress = Progress::default();
        assert!(progress.start_cached(7, 3));
        assert!(progress.advance());
        let count = Count {
            prompt_tokens: 7,
            cached_tokens: 3,
            completion_tokens: 1,
        };
        assert_eq!(progress.close(), count);
        assert!(!progress.advance());
        assert_eq!(progress.close(), count);
        assert!(progress.is_closed());
    }

    #[test]
    fn both_sides_know_the_same_number_however_they_race() {
        let progress = Progress::default();
        let (accepted, billed) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut accepted = 0;
                while progress.advance() {
                    accepted += 1;
                }
                accepted
            });
            while progress.read().completion_tokens < 1000 {}
            let billed = progress.close().completion_tokens;
            (worker.join().unwrap(), billed)
        });
        assert_eq!(accepted, billed);
    }
}
