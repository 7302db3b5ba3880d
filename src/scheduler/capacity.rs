use std::time::{Duration, Instant};

/// How many requests a worker is given at once.
#[derive(Debug)]
pub(super) enum Capacity {
    /// So many: the worker's own number, or the operator's.
    Fixed(u32),
    /// As many as it turns out to take.
    Learned(Learned),
}

/// Additive increase, multiplicative decrease (Chiu and Jain 1989): one more for each round of requests that went
/// well while all places were taken, a share less when the worker says that it is full, or when first tokens
/// take much longer than they do at its best.
#[derive(Debug)]
pub(super) struct Learned {
    limit: f64,
    most: f64,
    /// Of the time to first token in seconds: what it is at best, and lately.
    best_s: f64,
    lately_s: f64,
    cut: Option<Instant>,
}

const FULL: f64 = 0.7;
const SLOW: f64 = 0.9;
/// One overload is told by many requests at once: it counts once.
const PAUSE: Duration = Duration::from_secs(1);
/// A first token that takes this many times the best, and this much more, is late: the worker queues.
const LATE_RATIO: f64 = 3.0;
const LATE_S: f64 = 0.1;
/// The best time is forgotten by so much with each request, since prompts and models change.
const FORGET: f64 = 1.002;
const LATELY: f64 = 0.2;

impl Capacity {
    /// How many may run at once, at least 1.
    pub(super) fn limit(&self) -> u32 {
        match self {
            Self::Fixed(limit) => *limit,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 1 and a u32"
            )]
            Self::Learned(learned) => learned.limit as u32,
        }
    }

    pub(super) fn learned(start: u32, most: u32) -> Self {
        Self::Learned(Learned {
            limit: f64::from(start.max(1)),
            most: f64::from(most.max(1)),
            best_s: f64::INFINITY,
            lately_s: 0.0,
            cut: None,
        })
    }

    /// The worker refused one, since it has too many.
    pub(super) fn refused(&mut self, now: Instant) {
        if let Self::Learned(learned) = self {
            learned.cut(FULL, now);
        }
    }

    /// One was answered well; its first token's time is known where it was streamed. `waits` is whether some wait inside the worker, as it says; `taken` is how many ran when
    /// this one ended, itself included.
    pub(super) fn answered(
        &mut self,
        first_token: Option<Duration>,
        waits: bool,
        taken: u32,
        now: Instant,
    ) {
        if let Self::Learned(learned) = self {
            let first_s = first_token.map(|time| time.as_secs_f64());
            learned.answered(first_s, waits, f64::from(taken), now);
        }
    }
}

impl Learned {
    fn answered(&mut self, first_s: Option<f64>, waits: bool, taken: f64, now: Instant) {
        if let Some(first_s) = first_s {
            self.best_s = (self.best_s * FORGET).min(first_s);
            self.lately_s += (first_s - self.lately_s) * LATELY;
        }
        if waits || self.lately_s > self.best_s * LATE_RATIO + LATE_S {
            self.cut(SLOW, now);
        } else if taken >= self.limit.floor() {
            self.limit = (self.limit + 1.0 / self.limit).min(self.most);
        }
    }

    fn cut(&mut self, by: f64, now: Instant) {
        let lately = |cut: Instant| now.saturating_duration_since(cut) < PAUSE;
        if !self.cut.is_some_and(lately) {
            self.limit = (self.limit * by).max(1.0);
            self.cut = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that runs `slots` at once: one more waits a tenth of a second longer for its first token.
    fn settle(capacity: &mut Capacity, slots: u32, refuses: bool) -> u32 {
        let mut now = Instant::now();
        for _ in 0..5000 {
            let taken = capacity.limit();
            now += Duration::from_millis(20);
            if refuses && taken > slots {
                capacity.refused(now);
            } else {
                let waits = taken.saturating_sub(slots);
                capacity.answered(
                    Some(Duration::from_millis(50 + 100 * u64::from(waits))),
                    false,
                    taken,
                    now,
                );
            }
        }
        capacity.limit()
    }

    #[test]
    fn what_a_worker_refuses_is_learned() {
        let mut capacity = Capacity::learned(4, 1024);
        let limit = settle(&mut capacity, 24, true);
        assert!((16..=25).contains(&limit), "{limit}");
    }

    #[test]
    fn what_makes_first_tokens_late_is_learned() {
        let mut capacity = Capacity::learned(4, 1024);
        let limit = settle(&mut capacity, 24, false);
        assert!((16..=30).contains(&limit), "{limit}");
    }

    #[test]
    fn a_worker_that_is_asked_little_is_given_no_more() {
        let mut capacity = Capacity::learned(4, 1024);
        for _ in 0..1000 {
            capacity.answered(Some(Duration::from_millis(50)), false, 2, Instant::now());
        }
        assert_eq!(capacity.limit(), 4);
    }

    #[test]
    fn one_overload_counts_once() {
        let (mut capacity, now) = (Capacity::learned(100, 1024), Instant::now());
        for _ in 0..50 {
            capacity.refused(now);
        }
        assert_eq!(capacity.limit(), 70);
    }
}
