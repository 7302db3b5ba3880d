//! Cells of tables, and what makes a text safe in one.

use std::io::Write;

use anyhow::Result;

/// What amounts are in. Prices carry no currency of their own.
pub(super) const CURRENCY: &str = "USD";

/// RFC 4180; and what a spreadsheet would run as a formula is kept text by a leading apostrophe.
pub(super) fn quoted(cell: &str) -> String {
    let formula =
        cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

/// Text in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Columns as wide as their widest cell: names to the left, numbers to the right.
pub(super) fn table(out: &mut dyn Write, rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let cells = |column: usize| rows.iter().map(move |row| &row[column]);
    let widths: Vec<_> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let numbers: Vec<_> = (0..columns)
        .map(|column| {
            cells(column)
                .skip(1)
                .all(|cell| cell.parse::<f64>().is_ok())
        })
        .collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if numbers[column] {
                write!(out, "{cell:>width$}  ")?;
            } else {
                write!(out, "{cell:<width$}  ")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_can_not_break_out_of_its_column() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("=cmd"), "'=cmd");
        assert_eq!(quoted("-1.5"), "-1.5");
        assert_eq!(escaped("<b>&\"</b>"), "&lt;b&gt;&amp;&quot;&lt;/b&gt;");
    }
}
