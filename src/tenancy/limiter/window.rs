//! What was used in a window of time.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Uses this close together leave the window together.
const SLOT_MS: u64 = 100;
/// Any 60 seconds: what is in a slot stays until its last use is older than that.
const MINUTE_MS: u64 = 60_000 + SLOT_MS;

/// What was used in the last 60 seconds, to a tenth of one. Times are milliseconds of a monotonic clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Sliding {
    slots: VecDeque<(u64, u64)>,
    total: u64,
}

impl Sliding {
    pub(super) fn used(&mut self, now_ms: u64) -> u64 {
        while let Some((start, amount)) = self.slots.front()
            && start + MINUTE_MS <= now_ms
        {
            self.total -= amount;
            self.slots.pop_front();
        }
        self.total
    }

    /// Gives the slot, by which it can be corrected.
    pub(super) fn add(&mut self, now_ms: u64, amount: u64) -> u64 {
        let start = now_ms - now_ms % SLOT_MS;
        self.change(start, amount, 0);
        start
    }

    /// What was taken in a slot turns out to be another amount. A slot that has left the window is past changing.
    pub(super) fn correct(&mut self, slot: u64, taken: u64, used: u64) {
        if self.slots.front().is_some_and(|(first, _)| *first <= slot) {
            self.change(slot, used, taken);
        }
    }

    fn change(&mut self, slot: u64, plus: u64, minus: u64) {
        let place = self.slots.partition_point(|(start, _)| *start < slot);
        if self
            .slots
            .get(place)
            .is_none_or(|(start, _)| *start != slot)
        {
            self.slots.insert(place, (slot, 0));
        }
        let amount = &mut self.slots[place].1;
        let before = *amount;
        *amount = (before + plus).saturating_sub(minus);
        self.total = self.total - before + *amount;
    }

    /// How long until this much more fits under the limit; `None` where it never does.
    pub(super) fn wait(&self, now_ms: u64, amount: u64, limit: u64) -> Option<Duration> {
        let mut excess = (self.total + amount).saturating_sub(limit);
        if excess == 0 {
            return Some(Duration::ZERO);
        }
        for (start, used) in &self.slots {
            excess = excess.saturating_sub(*used);
            if excess == 0 {
                return Some(until(start + MINUTE_MS, now_ms));
            }
        }
        None
    }

    /// How long until nothing of it is left.
    pub(super) fn clear(&self, now_ms: u64) -> Duration {
        let last = self.slots.back();
        last.map_or(Duration::ZERO, |(start, _)| {
            until(start + MINUTE_MS, now_ms)
        })
    }
}

fn until(then_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(then_ms.saturating_sub(now_ms))
}

/// A stretch of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::tenancy) enum Calendar {
    Day,
    Month,
}

impl Calendar {
    /// When the one that this time lies in begins and ends. `None` thousands of years from now.
    pub(in crate::tenancy) fn around(self, time: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let today = time.to_zoned(TimeZone::UTC).date();
        let (first, next) = match self {
            Self::Day => (today, today.tomorrow().ok()?),
            Self::Month => (
                today.first_of_month(),
                today.last_of_month().tomorrow().ok()?,
            ),
        };
        Some((midnight(first)?, midnight(next)?))
    }
}

fn midnight(date: Date) -> Option<Timestamp> {
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against all uses written down: at most the limit in any 60 seconds, and never told to come too late.
        #[test]
        fn no_60_seconds_hold_more_than_the_limit(gaps in prop::collection::vec((0_u64..20_000, 1_u64..5), 1..200)) {
            const LIMIT: u64 = 10;
            let (mut window, mut now, mut taken) = (Sliding::default(), 0, Vec::new());
            for (gap, amount) in gaps {
                now += gap;
                if window.used(now) + amount <= LIMIT {
                    window.add(now, amount);
                    taken.push((now, amount));
                } else {
                    let wait = window.wait(now, amount, LIMIT).unwrap();
                    let then = now + u64::try_from(wait.as_millis()).unwrap();
                    prop_assert!(window.clone().used(then) + amount <= LIMIT);
                    prop_assert!(wait <= Duration::from_millis(MINUTE_MS));
                }
                let recent = taken.iter().filter(|(at, _)| at + 60_000 > now);
                prop_assert!(recent.map(|(_, amount)| amount).sum::<u64>() <= LIMIT);
            }
        }
    }

    #[test]
    fn what_was_taken_too_much_is_given_back_where_it_was_taken() {
        let mut window = Sliding::default();
        let slot = window.add(1_050, 100);
        window.add(30_000, 1);
        window.correct(slot, 100, 40);
        assert_eq!(window.used(30_000), 41);
        assert_eq!(
            window.wait(30_000, 60, 100),
            Some(Duration::from_millis(31_100))
        );
        assert_eq!(window.wait(30_000, 101, 100), None);
        assert_eq!(window.used(62_000), 1);
        window.correct(slot, 40, 90);
        assert_eq!(window.used(62_000), 1, "it has left the window");
        assert_eq!(window.clear(62_000), Duration::from_millis(28_100));
    }

    #[test]
    fn days_and_months_are_those_of_utc() {
        let time: Timestamp = "2028-02-29T23:59:59.999Z".parse().unwrap();
        let around = |calendar: Calendar| {
            let (from, to) = calendar.around(time).unwrap();
            (from.to_string(), to.to_string())
        };
        let march = "2028-03-01T00:00:00Z".to_owned();
        assert_eq!(
            around(Calendar::Day),
            ("2028-02-29T00:00:00Z".into(), march.clone())
        );
        assert_eq!(
            around(Calendar::Month),
            ("2028-02-01T00:00:00Z".into(), march)
        );
    }
}
