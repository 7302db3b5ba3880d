use std::io::{Write, stdout};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::types::{Dimension, Money, Store, UsageQuery, UsageRow};

/// What amounts are in. Prices carry no currency of their own.
const CURRENCY: &str = "USD";
const COLUMNS: [&str; 8] = [
    "project",
    "model",
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "amount",
    "currency",
];

#[derive(Args)]
pub(super) struct UsageArguments {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

#[derive(Serialize)]
struct Line {
    project: String,
    model: String,
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    /// A decimal in quotes: a float would round money.
    amount: String,
    currency: &'static str,
}

impl From<UsageRow> for Line {
    fn from(row: UsageRow) -> Self {
        Self {
            project: row.project_name.unwrap_or_default(),
            model: row.model.unwrap_or_default(),
            requests: row.requests,
            prompt_tokens: row.prompt_tokens,
            cached_tokens: row.cached_tokens,
            completion_tokens: row.completion_tokens,
            amount: row.amount.to_string(),
            currency: CURRENCY,
        }
    }
}

impl Line {
    fn cells(&self) -> [String; 8] {
        [
            self.project.clone(),
            self.model.clone(),
            self.requests.to_string(),
            self.prompt_tokens.to_string(),
            self.cached_tokens.to_string(),
            self.completion_tokens.to_string(),
            self.amount.clone(),
            self.currency.to_owned(),
        ]
    }
}

pub(super) async fn run(arguments: &UsageArguments, store: &dyn Store) -> Result<()> {
    let query = UsageQuery {
        group_by: vec![Dimension::Project, Dimension::Model],
        ..UsageQuery::default()
    };
    let rows = store.usage(&query).await?;
    let total = Money(rows.iter().map(|row| row.amount.0).sum());
    let lines: Vec<_> = rows.into_iter().map(Line::from).collect();
    let mut out = stdout().lock();
    match arguments.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?,
        Format::Csv => {
            writeln!(out, "{}", COLUMNS.join(","))?;
            for line in &lines {
                writeln!(out, "{}", line.cells().map(|cell| quoted(&cell)).join(","))?;
            }
        }
        Format::Table => {
            table(&mut out, &lines)?;
            writeln!(out, "\nTotal: {total} {CURRENCY}")?;
        }
    }
    Ok(())
}

fn table(out: &mut dyn Write, lines: &[Line]) -> Result<()> {
    let rows: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned))
        .chain(lines.iter().map(Line::cells))
        .collect();
    let widths: Vec<_> = (0..COLUMNS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Names to the left, numbers to the right.
            if column < 2 || column == 7 {
                write!(out, "{cell:<width$}  ")?;
            } else {
                write!(out, "{cell:>width$}  ")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// RFC 4180; and what a spreadsheet would run as a formula is kept text by a leading apostrophe.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@']) && cell.parse::<f64>().is_err();
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

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_cell_can_not_break_out_of_its_column() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("=cmd"), "'=cmd");
        assert_eq!(quoted("-1.5"), "-1.5");
    }
}
