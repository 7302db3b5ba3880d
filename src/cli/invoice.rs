use std::io::{Write, stdout};

use anyhow::{Result, anyhow, ensure};
use clap::{Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::cells::{CURRENCY, escaped, quoted};
use super::time::duration;
use crate::types::{Invoice, InvoiceLine, Period, Store};

#[derive(Subcommand)]
pub(super) enum InvoiceCommand {
    /// Close a month: every charge until its end goes into an invoice, one for each project
    Close {
        /// The month, in UTC
        #[arg(long, value_name = "YYYY-MM")]
        period: String,
        /// How long after the month's end it may be closed at the earliest; what comes still later is in the next
        /// invoice
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
        grace: SignedDuration,
    },
    /// Print every invoice's id, period, project and total
    List {
        /// Of one project alone: its name or id
        #[arg(long)]
        project: Option<String>,
    },
    /// Print an invoice
    Show {
        /// The invoice's id
        invoice: String,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Html)]
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Html,
    Csv,
}

const COLUMNS: [&str; 13] = [
    "invoice",
    "project_id",
    "project",
    "period_start",
    "period_end",
    "model",
    "price_version",
    "kind",
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "amount",
];

pub(super) async fn run(command: InvoiceCommand, store: &dyn Store) -> Result<()> {
    let mut out = stdout().lock();
    match command {
        InvoiceCommand::Close { period, grace } => {
            let month = Period::month(&period).map_err(|error| anyhow!(error))?;
            let earliest = month.end + grace;
            ensure!(
                Timestamp::now() >= earliest,
                "{period} can be closed from {earliest:.0} on; --grace makes it sooner, and never before its end"
            );
            for invoice in store.close_period(&month).await? {
                writeln!(out, "{}", summary(&invoice))?;
            }
        }
        InvoiceCommand::List { project } => {
            let project = match project {
                Some(project) => Some(store.find_project(&project).await?.id),
                None => None,
            };
            for invoice in store.invoices(project.as_ref()).await? {
                writeln!(out, "{}", summary(&invoice))?;
            }
        }
        InvoiceCommand::Show { invoice, format } => {
            let invoice = store.find_invoice(&invoice).await?;
            match format {
                Format::Html => write!(out, "{}", html(&invoice))?,
                Format::Csv => write!(out, "{}", csv(&invoice))?,
            }
        }
    }
    Ok(())
}

fn summary(invoice: &Invoice) -> String {
    let month = invoice.period.start.strftime("%Y-%m");
    let total = invoice.total().with_digits(2);
    format!(
        "{}  {month}  {}  {total} {CURRENCY}",
        invoice.id, invoice.project_name
    )
}

fn kind(line: &InvoiceLine) -> &'static str {
    if line.late { "correction" } else { "usage" }
}

/// The exact sums of the ledger and the rounded amounts both, and the total as the last line.
fn csv(invoice: &Invoice) -> String {
    let mut text = format!("{},exact_amount,currency\n", COLUMNS.join(","));
    let (start, end) = (invoice.period.start, invoice.period.end);
    for line in &invoice.lines {
        let cells = [
            invoice.id.clone(),
            invoice.project.clone(),
            invoice.project_name.clone(),
            start.to_string(),
            end.to_string(),
            line.model.clone(),
            line.price_version.clone(),
            kind(line).into(),
            line.requests.to_string(),
            line.prompt_tokens.to_string(),
            line.cached_tokens.to_string(),
            line.completion_tokens.to_string(),
            line.rounded().with_digits(2),
            line.amount.to_string(),
            CURRENCY.into(),
        ];
        text += &cells.map(|cell| quoted(&cell)).join(",");
        text.push('\n');
    }
    text
}

fn html(invoice: &Invoice) -> String {
    let rows: String = invoice.lines.iter().map(row).collect();
    let project = escaped(&invoice.project_name);
    let month = invoice.period.start.strftime("%B %Y");
    let (id, closed) = (&invoice.id, invoice.closed.strftime("%Y-%m-%d %H:%M UTC"));
    let (total, exact) = (invoice.total().with_digits(2), invoice.exact());
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Invoice {id}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 3em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .4em .6em; border-bottom: 1px solid #ddd; text-align: left }}
.n {{ text-align: right; font-variant-numeric: tabular-nums }}
small {{ color: #666 }}
</style>
<h1>Invoice</h1>
<p><b>{project}</b> <small>{}</small><br>{month}<br><small>{id}, closed {closed}</small></p>
<table>
<thead><tr><th>Model<th>Kind<th class="n">Requests<th class="n">Input tokens<th class="n">of them cached<th class="n">Output tokens<th class="n">{CURRENCY}</thead>
<tbody>
{rows}</tbody>
<tfoot><tr><th colspan="6">Total<th class="n">{total}</tfoot>
</table>
<p><small>Each line is rounded once, from its exact sum. The exact sum of all lines is {exact} {CURRENCY}.
A correction is of an earlier month, and was booked after that month had been closed.</small></p>
</html>
"#,
        escaped(&invoice.project)
    )
}

fn row(line: &InvoiceLine) -> String {
    let number = |count: i64| format!("<td class=\"n\">{count}");
    format!(
        "<tr><td>{} <small>{}</small><td>{}{}{}{}{}<td class=\"n\">{}\n",
        escaped(&line.model),
        escaped(&line.price_version),
        kind(line),
        number(line.requests),
        number(line.prompt_tokens),
        number(line.cached_tokens),
        number(line.completion_tokens),
        line.rounded().with_digits(2),
    )
}
