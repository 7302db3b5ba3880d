//! What has to hold, whatever happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::script::usage_of;
use super::world::{CONCURRENT, Client, Fate, MODEL, TOKENS_PER_DAY, World, limits};
use crate::gateway::Gateway;
use crate::store;
use crate::tenancy::{Access, Need};
use crate::types::{
    Caller, ChargeRow, Count, Dimension, Membership, Money, Page, Price, Scope, Spender, Usage,
    UsageQuery, UsageRow,
};

impl World {
    fn rows(&self) -> Vec<ChargeRow> {
        let life = self.life();
        let query = UsageQuery {
            absorbed: true,
            ..UsageQuery::default()
        };
        let page = Page {
            after: None,
            limit: 1000,
        };
        let rows = life.runtime.block_on(life.app.store.charges(&query, &page));
        rows.unwrap()
    }

    /// Every usage that a client saw is one settled row of the same tokens, and each other row is what the worker
    /// counted, or a checkpoint of it.
    pub(super) fn rows_are_what_was_seen(&self) -> Result<(), String> {
        let price = self.price();
        let mut rows = HashMap::new();
        for row in self.rows() {
            let request = row.request_id.clone();
            if rows.insert(request, row).is_some() {
                return Err("two rows for one attempt".into());
            }
        }
        for client in &self.clients {
            let row = rows.remove(&client.request.to_string());
            client.agrees(row.as_ref(), &price).map_err(|reason| {
                let (counted, fate) = (client.run.count(), client.fate());
                format!("{reason}: {row:?}, counted {counted:?}, {fate:?}, {:?}, cut {}, dropped {}, at least {:?}",
                    client.asked, client.cut, client.dropped, client.floor)
            })?;
        }
        match rows.values().next() {
            None => Ok(()),
            Some(row) => Err(format!("nobody asked for {row:?}")),
        }
    }

    pub(super) fn metrics_are_the_sums(&self) -> Result<(), String> {
        let life = self.life();
        let query = UsageQuery {
            group_by: vec![Dimension::State],
            absorbed: true,
            ..UsageQuery::default()
        };
        let sums = life.runtime.block_on(life.app.store.usage(&query)).unwrap();
        let text = life.app.api.gateway.metrics.encode().unwrap();
        let metric = |name: &str| -> i128 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |value| value.trim().parse().unwrap())
        };
        for state in ["settled", "absorbed", "recovered"] {
            let booked = sums.iter().find(|row| row.state.as_deref() == Some(state));
            let counted = metric(&format!(
                "forebay_ledger_charges_total{{state=\"{state}\"}}"
            ));
            same(state, counted, booked.map_or(0, |row| row.requests.into()))?;
        }
        let paid = || {
            sums.iter()
                .filter(|row| row.state.as_deref() != Some("absorbed"))
        };
        let tokens = |kind: &str| {
            metric(&format!(
                "forebay_tokens_total{{kind=\"{kind}\",model=\"{MODEL}\"}}"
            ))
        };
        let sum = |of: fn(&UsageRow) -> i128| paid().map(of).sum::<i128>();
        same(
            "prompt",
            tokens("prompt"),
            sum(|row| row.prompt_tokens.into()),
        )?;
        same(
            "completion",
            tokens("completion"),
            sum(|row| row.completion_tokens.into()),
        )?;
        let charged = metric(&format!("forebay_charged_pico_total{{model=\"{MODEL}\"}}"));
        same("money", charged, sum(|row| row.amount.0))
    }

    /// What a tenant may still take is its limits less what is booked, to the token.
    pub(super) fn nothing_stays_reserved(&self) -> Result<(), String> {
        self.callers.iter().try_for_each(|caller| {
            let life = self.life();
            life.runtime.block_on(no_reservation_outlives(
                &life.app.api.gateway,
                caller,
                &self.price(),
            ))
        })
    }

    pub(super) fn invoices_are_the_ledger(&self) {
        let life = self.life();
        let invoices = life
            .runtime
            .block_on(life.app.store.invoices(None))
            .unwrap();
        let lines = || invoices.iter().flat_map(|invoice| &invoice.lines);
        let rows = self.rows();
        let paid = || rows.iter().filter(|row| row.state != "absorbed");
        let tokens = |prompt: i64, completion: i64| prompt + completion;
        let invoiced: (i64, i64, i128) = (
            lines().map(|line| line.requests).sum(),
            lines()
                .map(|line| tokens(line.prompt_tokens, line.completion_tokens))
                .sum(),
            lines().map(|line| line.amount.0).sum(),
        );
        let booked = (
            i64::try_from(paid().count()).unwrap(),
            paid()
                .map(|row| tokens(row.prompt_tokens, row.completion_tokens))
                .sum(),
            paid().map(|row| row.amount.0).sum(),
        );
        assert_eq!(
            invoiced, booked,
            "requests, tokens and money of all invoices"
        );
    }

    pub(super) fn nothing_is_left_in_flight(&self) {
        let runtime = Runtime::new().unwrap();
        let left = runtime.block_on(async {
            let store = store::open(&self.url).await.unwrap();
            let auditor = Membership::new("auditor".into()).now();
            let left = store.recover(&auditor, Duration::ZERO).await.unwrap();
            store.close().await;
            left
        });
        assert_eq!(left, [], "in flight, though nothing runs");
    }
}

impl Client {
    fn agrees(&self, row: Option<&ChargeRow>, price: &Price) -> Result<(), &'static str> {
        let counted = self.run.count();
        let row = row.map(Row::of);
        let exact = |row: &Row| row.usage == usage_of(counted) && row.amount == row.due(price);
        let fate = self.fate();
        if let Some(Fate::Answered(usage)) = fate {
            return match row {
                Some(row) if row.state == "settled" && row.usage == usage && exact(&row) => Ok(()),
                _ => Err("an answer without its row"),
            };
        }
        match row {
            None if self.cut && self.floor == Count::default() => Ok(()),
            None if self.cut => Err("a checkpoint was lost"),
            None if counted.prompt_tokens == 0 && !matches!(fate, Some(Fate::Broken)) => Ok(()),
            None => Err("no row for what ran"),
            Some(row) if row.state == "recovered" => {
                let enough = row.usage.completion_tokens >= self.floor.completion_tokens
                    && row.usage.completion_tokens <= counted.completion_tokens
                    && row.usage.prompt_tokens == counted.prompt_tokens;
                let right = self.cut && enough && row.amount == row.due(price);
                right.then_some(()).ok_or("recovered wrongly")
            }
            Some(row) if !exact(&row) => Err("not what the worker counted"),
            Some(row) => match (fate, row.state.as_str()) {
                (Some(Fate::Broken) | None, "absorbed") | (None, "settled") => Ok(()),
                _ => Err("another end than the client's"),
            },
        }
    }
}

/// A row's part that has to agree.
struct Row {
    state: String,
    usage: Usage,
    amount: Money,
}

impl Row {
    fn of(row: &ChargeRow) -> Self {
        let tokens = |count: i64| u32::try_from(count).unwrap();
        Self {
            state: row.state.clone(),
            usage: Usage {
                prompt_tokens: tokens(row.prompt_tokens),
                cached_tokens: tokens(row.cached_tokens),
                completion_tokens: tokens(row.completion_tokens),
                reasoning_tokens: 0,
            },
            amount: row.amount,
        }
    }

    fn due(&self, price: &Price) -> Money {
        match self.state.as_str() {
            "absorbed" => Money(0),
            _ => price.amount(&self.usage),
        }
    }
}

async fn no_reservation_outlives(
    gateway: &Gateway,
    caller: &Caller,
    price: &Price,
) -> Result<(), String> {
    let model = Arc::from(MODEL);
    let [day, together] = limits(caller);
    let access = |limits| Access {
        caller: caller.clone(),
        project_name: String::new(),
        models: None,
        limits: vec![limits],
    };
    let need = Need {
        prompt_tokens: 0,
        completion_tokens: 0,
        named: true,
        answers: 1,
        batch: false,
    };
    let mut held = Vec::new();
    let access_together = access(together);
    for _ in 0..CONCURRENT {
        let reserved = gateway
            .limiter
            .reserve(&access_together, &model, price, need);
        held.push(reserved.await.map_err(|error| error.to_string())?);
    }
    let spender = Spender {
        scope: Scope::Project,
        id: caller.project.as_str().into(),
        model: None,
    };
    let midnight = Timestamp::now().as_second() / 86_400 * 86_400;
    let midnight = Timestamp::from_second(midnight).unwrap();
    let spent = gateway.store.spent(&spender, midnight).await.unwrap();
    let budget = day.limits.budget_per_day.unwrap().0 - spent.amount.0;
    let left = (i128::from(TOKENS_PER_DAY) - i128::from(spent.tokens))
        .min((budget - i128::from(price.request_pico)) / i128::from(price.completion_pico));
    let all = Need {
        completion_tokens: 1_000_000,
        ..need
    };
    let got = gateway
        .limiter
        .reserve(&access(day), &model, price, all)
        .await;
    let got = got.map_or(0, |reserved| i128::from(reserved.completion_tokens));
    same("tokens left", got, left.max(0))
}

fn same(what: &str, one: i128, other: i128) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    Err(format!("{what}: {one} and {other}"))
}
