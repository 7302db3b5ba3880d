//! Sums, as a table, CSV or JSON.

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Group;
use crate::cli::cells::{self, CURRENCY, quoted};
use crate::types::{Money, UsageRow};

/// What each row ends with.
const NUMBERS: [&str; 4] = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
];

fn name(group: Group) -> &'static str {
    match group {
        Group::Project => "project",
        Group::Model => "model",
        Group::Key => "key",
        Group::User => "user",
        Group::Endpoint => "endpoint",
        Group::Day => "day",
    }
}

fn value(group: Group, row: &UsageRow) -> String {
    let text = match group {
        Group::Project => row.project_name.clone(),
        Group::Model => row.model.clone(),
        Group::Key => row.key.clone(),
        Group::User => row.user.clone(),
        Group::Endpoint => row.endpoint.clone(),
        Group::Day => row.bucket_ms.map(day),
    };
    text.unwrap_or_default()
}

fn day(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .map(|time| time.strftime("%Y-%m-%d").to_string())
        .unwrap_or_default()
}

fn numbers(row: &UsageRow) -> [i64; 4] {
    [
        row.requests,
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
    ]
}

fn header(groups: &[Group]) -> Vec<String> {
    let names = groups.iter().map(|group| name(*group));
    let names = names.chain(NUMBERS).chain(["amount", "currency"]);
    names.map(str::to_owned).collect()
}

fn line(groups: &[Group], row: &UsageRow) -> Vec<String> {
    let mut cells: Vec<_> = groups.iter().map(|group| value(*group, row)).collect();
    cells.extend(numbers(row).map(|number| number.to_string()));
    cells.extend([row.amount.to_string(), CURRENCY.to_owned()]);
    cells
}

pub(super) fn table(out: &mut dyn Write, groups: &[Group], rows: Vec<UsageRow>) -> Result<()> {
    let total = Money(rows.iter().map(|row| row.amount.0).sum());
    let mut lines = vec![header(groups)];
    lines.extend(rows.iter().map(|row| line(groups, row)));
    cells::table(out, &lines)?;
    writeln!(out, "\nTotal: {total} {CURRENCY}")?;
    Ok(())
}

pub(super) fn csv(out: &mut dyn Write, groups: &[Group], rows: Vec<UsageRow>) -> Result<()> {
    writeln!(out, "{}", header(groups).join(","))?;
    for row in &rows {
        let cells: Vec<_> = line(groups, row).iter().map(|cell| quoted(cell)).collect();
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

pub(super) fn json(out: &mut dyn Write, groups: &[Group], rows: Vec<UsageRow>) -> Result<()> {
    let object = |row: &UsageRow| {
        let mut object = Map::new();
        for group in groups {
            object.insert(name(*group).into(), value(*group, row).into());
        }
        for (name, number) in NUMBERS.into_iter().zip(numbers(row)) {
            object.insert(name.into(), number.into());
        }
        // A decimal in quotes: a float would round money.
        object.insert("amount".into(), row.amount.to_string().into());
        object.insert("currency".into(), CURRENCY.into());
        Value::Object(object)
    };
    let rows: Vec<_> = rows.iter().map(object).collect();
    writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    Ok(())
}
