//! Times on the command line.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// In jiff's friendly form, a day being 24 hours: `90d`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<SignedDuration, String> {
    let refuse = || format!("{text:?} is no time such as 90d, 24h or 30m");
    let span: Span = text.parse().map_err(|_| refuse())?;
    let options = SpanRelativeTo::days_are_24_hours();
    let time = span.to_duration(options).map_err(|_| refuse())?;
    if time.is_negative() || time > SignedDuration::from_hours(24 * 36_500) {
        return Err(refuse());
    }
    Ok(time)
}

/// A moment: `2026-11-26`, its midnight in UTC, or a time of RFC 3339, in UTC where it names no zone.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let refuse = || format!("{text:?} is no time such as 2026-11-26 or 2026-11-26T12:00:00Z");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let civil: DateTime = text.parse().map_err(|_| refuse())?;
    let zoned = civil.to_zoned(TimeZone::UTC).map_err(|_| refuse())?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_in_days_hours_and_minutes() {
        assert_eq!(duration("90d"), Ok(SignedDuration::from_hours(90 * 24)));
        assert_eq!(duration("1h30m"), Ok(SignedDuration::from_mins(90)));
        for bad in ["", "soon", "-1h", "1y", "900000d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_utc() {
        let time = |text| moment(text).unwrap().to_string();
        assert_eq!(time("2026-11-26"), "2026-11-26T00:00:00Z");
        assert_eq!(time("2026-11-26T12:30:00"), "2026-11-26T12:30:00Z");
        assert_eq!(time("2026-11-26T12:30:00+01:00"), "2026-11-26T11:30:00Z");
        assert!(moment("yesterday").is_err());
    }
}
