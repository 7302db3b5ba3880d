//! FOCUS 1.2, the FinOps Open Cost and Usage Specification, as CSV: a row for each day, project, model, price and
//! kind of token. <https://focus.finops.org/focus-specification/v1-2/>

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::DAY_MS;
use crate::app::DEFAULT_ORGANISATION;
use crate::cli::cells::{CURRENCY, quoted};
use crate::cli::project::ALL;
use crate::types::{Dimension, Money, Price, Store, UsageQuery, UsageRow};

/// Those that every data set has to have, and of the conditional ones those that apply, in the order of their
/// names. What the specification calls null is empty.
const COLUMNS: [&str; 33] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
];

const PROVIDER: &str = "Forebay";

/// One kind of thing that is paid for.
struct Part {
    meter: &'static str,
    unit: &'static str,
    quantity: i128,
    unit_pico: i128,
}

/// Who pays: an organisation.
#[derive(Clone)]
struct Account {
    id: String,
    name: String,
}

pub(super) async fn write(
    out: &mut dyn Write,
    store: &dyn Store,
    mut query: UsageQuery,
) -> Result<()> {
    query.group_by = vec![Dimension::Project, Dimension::Model, Dimension::Price];
    query.bucket_ms = Some(DAY_MS);
    let accounts = accounts(store).await?;
    let site = Account {
        id: DEFAULT_ORGANISATION.into(),
        name: DEFAULT_ORGANISATION.into(),
    };
    writeln!(out, "{}", COLUMNS.join(","))?;
    for row in store.usage(&query).await? {
        let project = row.project.as_deref().unwrap_or_default();
        // Every charge has a billing account; one of a project that is in no list is the site's own.
        let account = accounts.get(project).unwrap_or(&site);
        for part in parts(&row) {
            let cells = cells(&row, &part, account)?;
            writeln!(out, "{}", cells.map(|cell| quoted(&cell)).join(","))?;
        }
    }
    Ok(())
}

/// The organisation of each project.
async fn accounts(store: &dyn Store) -> Result<HashMap<String, Account>> {
    let mut organisations = HashMap::new();
    let mut accounts = HashMap::new();
    for project in store.projects(None, true, &ALL).await? {
        let id = project.organisation.as_str();
        if !organisations.contains_key(id) {
            let name = store.find_organisation(id).await?.name;
            let account = Account {
                id: id.to_owned(),
                name,
            };
            organisations.insert(id.to_owned(), account);
        }
        accounts.insert(project.id.to_string(), organisations[id].clone());
    }
    Ok(accounts)
}

/// What the row's amount is made of. Together they are the amount, to the last digit.
fn parts(row: &UsageRow) -> Vec<Part> {
    let price = row.price.as_deref().and_then(Price::of_version);
    let price = price.unwrap_or_default();
    let computed = row.prompt_tokens - row.cached_tokens;
    let tokens = [
        ("Input Tokens", computed, price.prompt_pico),
        ("Cached Input Tokens", row.cached_tokens, price.cached_pico),
        (
            "Output Tokens",
            row.completion_tokens,
            price.completion_pico,
        ),
    ];
    let mut parts: Vec<_> = tokens
        .into_iter()
        .filter(|(_, quantity, _)| *quantity != 0)
        .map(|(meter, quantity, unit_pico)| Part {
            meter,
            unit: "Tokens",
            quantity: quantity.into(),
            unit_pico: unit_pico.into(),
        })
        .collect();
    let rest = row.amount.0 - parts.iter().map(Part::cost).sum::<i128>();
    let request_pico = i128::from(price.request_pico);
    if rest != 0 {
        let by_request = request_pico != 0 && rest % request_pico == 0;
        parts.push(Part {
            meter: if by_request { "Requests" } else { "Other" },
            unit: "Requests",
            quantity: if by_request { rest / request_pico } else { 1 },
            unit_pico: if by_request { request_pico } else { rest },
        });
    }
    parts
}

impl Part {
    fn cost(&self) -> i128 {
        self.quantity * self.unit_pico
    }
}

fn cells(row: &UsageRow, part: &Part, account: &Account) -> Result<[String; 33]> {
    let day = Timestamp::from_millisecond(row.bucket_ms.unwrap_or_default())?;
    let date = day.to_zoned(TimeZone::UTC).date();
    let (cost, price) = (
        Money(part.cost()).to_string(),
        Money(part.unit_pico).to_string(),
    );
    let model = row.model.clone().unwrap_or_default();
    let version = row.price.clone().unwrap_or_default();
    let sku = format!("{model}/{}", part.meter.to_lowercase().replace(' ', "-"));
    let (quantity, unit) = (part.quantity.to_string(), part.unit.to_owned());
    Ok([
        cost.clone(),
        account.id.clone(),
        account.name.clone(),
        CURRENCY.into(),
        midnight(date.last_of_month().tomorrow()?)?,
        midnight(date.first_of_month())?,
        "Usage".into(),
        String::new(),
        format!("{} of {model}", part.meter),
        "Usage-Based".into(),
        midnight(date.tomorrow()?)?,
        midnight(date)?,
        quantity.clone(),
        unit.clone(),
        cost.clone(),
        price.clone(),
        cost.clone(),
        PROVIDER.into(),
        cost,
        price,
        "Standard".into(),
        quantity,
        unit,
        PROVIDER.into(),
        PROVIDER.into(),
        "AI and Machine Learning".into(),
        PROVIDER.into(),
        "Generative AI".into(),
        sku.clone(),
        part.meter.into(),
        format!("{sku}@{version}"),
        row.project.clone().unwrap_or_default(),
        row.project_name.clone().unwrap_or_default(),
    ])
}

fn midnight(date: Date) -> Result<String> {
    let time = date.to_zoned(TimeZone::UTC)?.timestamp();
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(version: &str, amount: i128) -> UsageRow {
        UsageRow {
            price: Some(version.into()),
            requests: 3,
            prompt_tokens: 100,
            cached_tokens: 40,
            completion_tokens: 7,
            amount: Money(amount),
            ..UsageRow::default()
        }
    }

    #[test]
    fn the_parts_are_the_amount_to_the_last_digit() {
        let exact = 60 * 20 + 40 * 5 + 7 * 60;
        for (version, amount, meters) in [
            (
                "20/5/60/0",
                exact,
                vec!["Input Tokens", "Cached Input Tokens", "Output Tokens"],
            ),
            (
                "20/5/60/9",
                exact + 27,
                vec![
                    "Input Tokens",
                    "Cached Input Tokens",
                    "Output Tokens",
                    "Requests",
                ],
            ),
            (
                "none",
                1234,
                vec![
                    "Input Tokens",
                    "Cached Input Tokens",
                    "Output Tokens",
                    "Other",
                ],
            ),
        ] {
            let parts = parts(&row(version, amount));
            assert_eq!(
                parts.iter().map(|part| part.meter).collect::<Vec<_>>(),
                meters
            );
            assert_eq!(parts.iter().map(Part::cost).sum::<i128>(), amount);
        }
        assert_eq!(parts(&row("20/5/60/9", exact + 27))[3].quantity, 3);
    }
}
