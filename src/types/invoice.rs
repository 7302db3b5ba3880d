use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::Money;

/// A month of UTC that is billed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl Period {
    /// The month of this text, `2026-11`.
    ///
    /// # Errors
    /// It is no month.
    pub fn month(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no month such as 2026-11");
        let plain = text.len() == 7 && text.as_bytes()[4] == b'-';
        let first: Date = format!("{text}-01").parse().map_err(|_| refuse())?;
        if !plain {
            return Err(refuse());
        }
        let next = first.checked_add(1.month()).map_err(|_| refuse())?;
        let midnight = |date: Date| {
            let zoned = date.to_zoned(TimeZone::UTC).map_err(|_| refuse())?;
            Ok::<_, String>(zoned.timestamp())
        };
        Ok(Self {
            start: midnight(first)?,
            end: midnight(next)?,
        })
    }
}

/// What one project has to pay for a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// Its id, for ever.
    pub id: String,
    /// The project that it is for.
    pub project: String,
    /// What the project was called when the period was closed.
    pub project_name: String,
    /// What it covers.
    pub period: Period,
    /// When it was closed; what was booked later is in the next one.
    pub closed: Timestamp,
    /// Its lines, each an exact sum of the ledger.
    pub lines: Vec<InvoiceLine>,
}

/// One line: all charges of one model at one price, in the period or late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceLine {
    /// The model.
    pub model: String,
    /// The price that the charges were booked at.
    pub price_version: String,
    /// Charges of an earlier period that were booked after it was closed.
    pub late: bool,
    /// Answers.
    pub requests: i64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: i64,
    /// Tokens of prompts that were reused.
    pub cached_tokens: i64,
    /// Tokens that were generated.
    pub completion_tokens: i64,
    /// The exact sum.
    pub amount: Money,
}

impl InvoiceLine {
    /// What is asked for: the exact sum, rounded once, to hundredths.
    #[must_use]
    pub fn rounded(&self) -> Money {
        self.amount.rounded(2)
    }
}

impl Invoice {
    /// The sum of the rounded lines.
    #[must_use]
    pub fn total(&self) -> Money {
        Money(self.lines.iter().map(|line| line.rounded().0).sum())
    }

    /// The exact sum of the ledger.
    #[must_use]
    pub fn exact(&self) -> Money {
        Money(self.lines.iter().map(|line| line.amount.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let december = Period::month("2026-12").unwrap();
        assert_eq!(december.start.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!(december.end, Period::month("2027-01").unwrap().start);
        for bad in ["", "2026", "2026-13", "2026-1", "26-01-01", "2026-11-01"] {
            assert!(Period::month(bad).is_err(), "{bad}");
        }
    }
}
