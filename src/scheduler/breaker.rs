use std::time::{Duration, Instant};

/// What one failure weighs in the running share of failures.
const WEIGHT: f64 = 0.2;
/// Above this share the breaker opens: from clean, after four failures in a row.
const OPENS_ABOVE: f64 = 0.5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps requests away from a worker that fails, and lets one through now and then to see whether it still does
/// (the circuit breaker of M. Nygard, "Release It!").
#[derive(Debug)]
pub(super) struct Breaker {
    failing: f64,
    state: State,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Requests go through.
    Closed,
    /// None does until then.
    Open {
        /// When the next one is tried.
        until: Instant,
    },
    /// One is on its way, and will tell.
    Trying,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failing: 0.0,
            state: State::Closed,
            pause: FIRST_PAUSE,
        }
    }
}

impl Breaker {
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether a request may go through.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } => now >= until,
            State::Trying => false,
        }
    }

    /// A request goes through. True where it is the one that is to tell.
    pub(super) fn enter(&mut self, now: Instant) -> bool {
        let trial = matches!(self.state, State::Open { until } if now >= until);
        if trial {
            self.state = State::Trying;
        }
        trial
    }

    /// The trial came to nothing that would tell how the worker is.
    pub(super) fn abandoned(&mut self, now: Instant) {
        self.state = State::Open { until: now };
    }

    /// The trial was answered.
    pub(super) fn closes(&mut self) {
        *self = Self::default();
    }

    /// Any other request was answered.
    pub(super) fn succeeded(&mut self) {
        self.failing *= 1.0 - WEIGHT;
    }

    /// True where the breaker opens by it.
    pub(super) fn failed(&mut self, trial: bool, now: Instant) -> bool {
        self.failing += (1.0 - self.failing) * WEIGHT;
        match self.state {
            State::Closed if self.failing > OPENS_ABOVE => {}
            State::Trying if !trial => return false,
            State::Trying => self.pause = (self.pause * 2).min(LONGEST_PAUSE),
            State::Closed | State::Open { .. } => return false,
        }
        self.state = State::Open {
            until: now + self.pause,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_on_failures_in_a_row_and_closes_on_one_that_succeeds() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let opened: Vec<_> = (0..4).map(|_| breaker.failed(false, start)).collect();
        assert_eq!(opened, [false, false, false, true]);
        assert!(!breaker.admits(start));
        let later = start + FIRST_PAUSE;
        assert!(breaker.admits(later));
        assert!(breaker.enter(later));
        assert!(!breaker.admits(later), "one at a time");
        assert!(!breaker.failed(false, later), "an older one tells nothing");
        assert!(breaker.failed(true, later));
        assert!(!breaker.admits(later + FIRST_PAUSE), "the pause is doubled");
        let last = later + 2 * FIRST_PAUSE;
        assert!(breaker.admits(last));
        assert!(breaker.enter(last));
        breaker.closes();
        assert!(breaker.admits(last));
    }

    #[test]
    fn a_trial_that_tells_nothing_is_followed_by_another() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        while !breaker.failed(false, start) {}
        let later = start + FIRST_PAUSE;
        assert!(breaker.enter(later));
        breaker.abandoned(later);
        assert!(breaker.admits(later));
    }

    #[test]
    fn a_failure_now_and_then_opens_nothing() {
        let mut breaker = Breaker::default();
        for request in 0..1000 {
            match request % 3 {
                0 => assert!(!breaker.failed(false, Instant::now())),
                _ => breaker.succeeded(),
            }
        }
    }

    #[test]
    fn the_pause_grows_to_its_limit() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        while !breaker.failed(false, now) {}
        for _ in 0..10 {
            now += LONGEST_PAUSE;
            assert!(breaker.enter(now));
            assert!(breaker.failed(true, now));
        }
        assert!(breaker.admits(now + LONGEST_PAUSE));
    }
}
