//! Medians, quantiles and tables.

use std::io::Write;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Times in microseconds, up to an hour, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 3_600_000_000, 3)?)
}

/// What repetitions gave. All zero where there were none.
#[derive(Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let end = |value: Option<&f64>| value.copied().unwrap_or_default();
        Self {
            median: median(&values),
            min: end(values.first()),
            max: end(values.last()),
        }
    }

    /// `1.41 (1.22 to 1.56)`.
    pub(crate) fn cell(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

/// Of sorted values; 0 where there are none.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest of sorted values that at least this share of them does not exceed; 0 where there are none.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// A Markdown table whose columns also stand under each other in a terminal.
pub(crate) fn table(out: &mut impl Write, head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let head: Vec<_> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let widths: Vec<_> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]);
            let lengths = cells
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    for row in [&head, &rule].into_iter().chain(rows) {
        write!(out, "|")?;
        for (cell, width) in row.iter().zip(&widths) {
            write!(out, " {cell:<width$} |")?;
        }
        writeln!(out)?;
    }
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::{Spread, median, quantile, table};

    #[test]
    fn a_median_lies_between_the_middle_two() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values, 1.0), 200.0);
        assert_eq!(quantile(&values[..3], 0.99), 3.0);
        assert_eq!(quantile(&[], 0.99), 0.0);
    }

    #[test]
    fn a_spread_knows_its_ends() {
        let spread = Spread::of([1.2, 0.9, 1.0]);
        assert_eq!((spread.min, spread.median, spread.max), (0.9, 1.0, 1.2));
        assert_eq!(spread.cell(1), "1.0 (0.9 to 1.2)");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut out = Vec::new();
        let rows = [vec!["peer".to_owned(), "1.5".to_owned()]];
        table(&mut out, &["", "tok/s"], &rows).unwrap();
        let lines = "|      | tok/s |\n| ---- | ----- |\n| peer | 1.5   |\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), lines);
    }
}
