//! `forebay usage`: the ledger as a table, and in the forms that other programs take.

mod cloudevents;
mod focus;
mod sums;

use std::io::{Write, stdout};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::time::moment;
use crate::types::{Dimension, Store, UsageQuery};

#[derive(Args)]
pub(super) struct UsageArguments {
    /// How to print it. FOCUS is version 1.2, by day; CloudEvents are one event for each charge
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// What to break it down by; several may be given, with commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "project,model"
    )]
    group_by: Vec<Group>,
    /// From this time on: 2026-11-01, or a time of RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Until before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// Of one project alone: its name or id
    #[arg(long)]
    project: Option<String>,
    /// Of one model alone
    #[arg(long)]
    model: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Focus,
    Cloudevents,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    Project,
    Model,
    Key,
    User,
    Endpoint,
    Day,
}

impl Group {
    fn dimension(self) -> Option<Dimension> {
        match self {
            Self::Project => Some(Dimension::Project),
            Self::Model => Some(Dimension::Model),
            Self::Key => Some(Dimension::Key),
            Self::User => Some(Dimension::User),
            Self::Endpoint => Some(Dimension::Endpoint),
            Self::Day => None,
        }
    }
}

const DAY_MS: i64 = 86_400_000;

pub(super) async fn run(arguments: &UsageArguments, store: &dyn Store) -> Result<()> {
    if let (Some(from), Some(to)) = (arguments.from, arguments.to) {
        ensure!(from < to, "--from must lie before --to");
    }
    let projects = match &arguments.project {
        Some(project) => vec![store.find_project(project).await?.id.to_string()],
        None => Vec::new(),
    };
    let groups = &arguments.group_by;
    let query = UsageQuery {
        from: arguments.from,
        to: arguments.to,
        projects,
        models: arguments.model.iter().cloned().collect(),
        group_by: groups
            .iter()
            .filter_map(|group| group.dimension())
            .collect(),
        bucket_ms: groups.contains(&Group::Day).then_some(DAY_MS),
        ..UsageQuery::default()
    };
    let mut out = stdout().lock();
    match arguments.format {
        Format::Table => sums::table(&mut out, groups, store.usage(&query).await?)?,
        Format::Csv => sums::csv(&mut out, groups, store.usage(&query).await?)?,
        Format::Json => sums::json(&mut out, groups, store.usage(&query).await?)?,
        Format::Focus => focus::write(&mut out, store, query).await?,
        Format::Cloudevents => cloudevents::write(&mut out, store, &query).await?,
    }
    out.flush()?;
    Ok(())
}
