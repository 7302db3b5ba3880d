use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long this replica may take itself for alive.
///
/// Each commit renews it, counted from the commit's start on this machine's monotonic clock; the others count from
/// its end on the database's. So this side always stops first.
pub(super) struct Lease {
    /// None for a replica that is alone: nobody could take it for dead.
    length: Option<Duration>,
    state: Mutex<State>,
}

struct State {
    renewed: Instant,
    /// Since when it was renewed without a gap.
    unbroken_since: Instant,
}

/// Renewed that often in each lease.
const BEATS: u32 = 5;
/// Of these parts of a lease, one is kept back for clocks that run at different speeds.
const MARGIN: u32 = 10;

impl Lease {
    /// One that was taken just now.
    pub(super) fn new(length: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            length,
            state: Mutex::new(State {
                renewed: now,
                unbroken_since: now,
            }),
        }
    }

    /// A commit that began then stands.
    pub(super) fn renewed(&self, at: Instant) {
        let mut state = self.lock();
        if let Some(length) = self.length
            && state.renewed + length < at
        {
            state.unbroken_since = at;
        }
        state.renewed = at;
    }

    /// Whether a commit is needed though there is nothing to be written.
    pub(super) fn beat_is_due(&self) -> bool {
        self.length
            .is_some_and(|length| self.lock().renewed.elapsed() >= length / BEATS)
    }

    /// Whether something new may be begun.
    pub(super) fn holds(&self) -> bool {
        self.length
            .is_none_or(|length| self.lock().renewed.elapsed() < length - length / MARGIN)
    }

    /// Whether it has held for so long that a replica that is silent must be dead. When the store was away, all
    /// were silent, and each gets the time to come back.
    pub(super) fn may_judge(&self) -> bool {
        self.holds()
            && self
                .length
                .is_none_or(|length| self.lock().unbroken_since.elapsed() >= length)
    }

    pub(super) fn length(&self) -> Option<Duration> {
        self.length
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn ago(seconds: u64) -> Instant {
        Instant::now() - Duration::from_secs(seconds)
    }

    #[test]
    fn it_holds_until_a_little_before_its_end() {
        let lease = Lease::new(Some(LENGTH));
        assert!(lease.holds() && !lease.beat_is_due());
        lease.renewed(ago(5));
        assert!(lease.holds() && lease.beat_is_due());
        lease.renewed(ago(9));
        assert!(!lease.holds());
    }

    #[test]
    fn whoever_was_cut_off_judges_nobody_for_a_lease() {
        let lease = Lease::new(Some(LENGTH));
        assert!(!lease.may_judge());
        lease.lock().unbroken_since = ago(11);
        assert!(lease.may_judge());
        lease.lock().renewed = ago(11);
        lease.renewed(Instant::now());
        assert!(lease.holds() && !lease.may_judge());
    }

    #[test]
    fn whoever_is_alone_needs_none() {
        let lease = Lease::new(None);
        lease.renewed(ago(1000));
        assert!(lease.holds() && !lease.beat_is_due());
    }
}
