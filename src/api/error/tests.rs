use super::*;
use crate::tenancy::Meter;
use crate::types::{Kind, Scope};

/// A line of the table: what clients and their SDKs act on, and the sentence for people.
fn line(name: &str, error: ApiError) -> String {
    let response = error.event();
    let body: serde_json::Value = serde_json::from_str(&response).unwrap();
    let status = error.status.as_u16();
    let response = error.into_response();
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(format!(" {name}={}", value.to_str().ok()?))
    };
    let headers = ["retry-after", "x-should-retry", "connection"].into_iter();
    let headers: String = headers.filter_map(header).collect();
    let body = &body["error"];
    format!(
        "{name}: {status} {} {} {}{headers}\n    {}",
        body["type"],
        body["code"],
        body["param"],
        body["message"].as_str().unwrap(),
    )
}

fn over(meter: Meter, wait_s: Option<f64>) -> ApiError {
    Over {
        meter,
        scope: Scope::Project,
        model: None,
        limit: 10,
        taken: 9,
        asked: 2,
        retry_after: wait_s.map(Duration::from_secs_f64),
    }
    .into()
}

fn limits() -> Vec<(&'static str, ApiError)> {
    vec![
        ("requests", over(Meter::RequestsPerMinute, Some(12.5))),
        (
            "requests, a minute",
            over(Meter::RequestsPerMinute, Some(60.05)),
        ),
        ("requests, a day", over(Meter::RequestsPerDay, Some(4000.0))),
        ("concurrent", over(Meter::Concurrent, Some(1.0))),
        ("tokens", over(Meter::TokensPerMinute, Some(0.2))),
        ("tokens, never", over(Meter::TokensPerMinute, None)),
        ("tokens, a day", over(Meter::TokensPerDay, Some(4000.0))),
        ("batch tokens", over(Meter::BatchTokensPerDay, Some(4000.0))),
        ("budget, a day", over(Meter::BudgetPerDay, Some(4000.0))),
        ("budget, a month", over(Meter::BudgetPerMonth, Some(4000.0))),
    ]
}

fn stores() -> Vec<(&'static str, ApiError)> {
    let word = || "thing".to_owned();
    vec![
        ("exists", StoreError::Exists(word()).into()),
        ("not found", StoreError::NotFound(word()).into()),
        ("in use", StoreError::InUse(word()).into()),
        ("full", StoreError::Full(word()).into()),
        ("fenced", StoreError::Fenced.into()),
        (
            "unavailable",
            StoreError::Unavailable("secret".into()).into(),
        ),
    ]
}

fn inner() -> Vec<(&'static str, ApiError)> {
    let model = || "m".to_owned();
    let kind = Kind::Embed;
    vec![
        ("unknown key", tenancy::Error::UnknownKey.into()),
        (
            "key that is over",
            tenancy::Error::Over("has expired").into(),
        ),
        ("unknown model", router::Error::UnknownModel(model()).into()),
        (
            "wrong kind",
            router::Error::WrongKind {
                model: model(),
                kind,
            }
            .into(),
        ),
        ("closed", router::Error::Closed(model()).into()),
        ("queue full", scheduler::Error::QueueFull.into()),
        ("own queue full", scheduler::Error::TenantQueueFull.into()),
        ("queue timeout", scheduler::Error::QueueTimeout.into()),
        (
            "not ready",
            scheduler::Error::NotReady("it loads".into()).into(),
        ),
        ("no worker", scheduler::Error::NoWorker.into()),
        ("ledger down", metering::Error::LedgerDown.into()),
        ("lost", metering::Error::Lost.into()),
        ("too many open", metering::Error::TooManyOpen.into()),
    ]
}

fn workers() -> Vec<(&'static str, ApiError)> {
    let refused = |status, code: Option<&str>| Failure::Refused {
        status,
        param: Some("stop".into()),
        code: code.map(str::to_owned),
        message: "no".into(),
    };
    let invalid = Failure::Invalid {
        param: Some("stop".into()),
        message: "no".into(),
    };
    let long = Failure::ContextLength {
        context: 2048,
        prompt: 3000,
        param: "messages".into(),
    };
    vec![
        ("invalid", invalid.into()),
        ("context", long.into()),
        ("refused", refused(422, Some("invalid_value")).into()),
        (
            "refused, in words of its own",
            refused(400, Some("whatever")).into(),
        ),
        (
            "worker not ready",
            Failure::NotReady("it loads".into()).into(),
        ),
        ("busy", Failure::Busy.into()),
        ("broken", Failure::Broken("secret".into()).into()),
    ]
}

fn edge() -> Vec<(&'static str, ApiError)> {
    vec![
        ("invalid", ApiError::invalid(Some("n"), "no")),
        ("unsupported", ApiError::unsupported("n")),
        ("unreadable", ApiError::unreadable("no")),
        ("no key", ApiError::no_key()),
        ("forbidden", ApiError::forbidden("no")),
        ("no such", ApiError::no_such("file", "file-1")),
        ("unknown path", ApiError::not_found("no".into())),
        ("wrong method", ApiError::wrong_method("no".into())),
        ("too slow", ApiError::too_slow()),
        ("too large", ApiError::too_large()),
        ("file too large", ApiError::file_too_large(5)),
        ("conflict", ApiError::conflict("no")),
        ("still runs", ApiError::still_runs()),
        ("another request", ApiError::another_request()),
        ("unknown encoding", ApiError::unknown_encoding()),
        ("internal", ApiError::internal()),
    ]
}

#[test]
fn errors_are_those_of_the_table() {
    let table = [
        ("At the edge", edge()),
        ("Keys, models, queues, the ledger", inner()),
        ("Limits", limits()),
        ("The store", stores()),
        ("Workers", workers()),
    ];
    let part = |(title, errors): (&str, Vec<(&str, ApiError)>)| {
        let lines = errors.into_iter().map(|(name, error)| line(name, error));
        format!("# {title}\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    };
    let table: String = table.into_iter().map(part).collect();
    assert!(!table.contains("secret"), "{table}");
    insta::assert_snapshot!(table);
}
