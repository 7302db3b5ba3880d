//! The books as others read them: OpenAI's usage and costs, CSV, FOCUS and CloudEvents.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{CHAT, EMBEDDINGS, Server};
use crate::tenancy::{Admin, ask, chat_as};

/// A decimal in pico-units.
fn pico(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{part:0<12}").parse().unwrap()
}

/// A CSV without line breaks in its cells, as rows by column.
fn csv(text: &str) -> Vec<Vec<(String, String)>> {
    let cells = |line: &str| {
        let mut cells = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                c => cells.last_mut().unwrap().push(c),
            }
        }
        cells
    };
    let mut lines = text.lines();
    let header = cells(lines.next().unwrap());
    lines
        .map(|line| header.iter().cloned().zip(cells(line)).collect())
        .collect()
}

fn column<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
    &row.iter().find(|(column, _)| column == name).unwrap().1
}

async fn used() -> Server {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let (_, key) = admin.project("acme, \"inc\"", json!({})).await;
    for index in 0..5 {
        let body = json!({"ask": format!("Name {index} rivers."), "max_tokens": 5 + index, "user": format!("user {}", index % 2)});
        assert_eq!(chat_as(&server, &key, body.clone()).await.status(), 200);
        server.chat(body).await;
    }
    let body = json!({"model": EMBEDDINGS, "input": ["a river", "a lake"]});
    assert_eq!(
        ask(&server, &key, Method::POST, "/v1/embeddings", body)
            .await
            .status(),
        200
    );
    server
}

/// The sum of a column of a CSV.
fn total(rows: &[Vec<(String, String)>], name: &str) -> i128 {
    rows.iter().map(|row| pico(column(row, name))).sum()
}

fn total_of(rows: &[Value]) -> i128 {
    let amounts = rows.iter().map(|row| row["amount"].as_str().unwrap());
    amounts.map(pico).sum()
}

fn events(server: &Server) -> Vec<Value> {
    let text = server.cli(&["usage", "--format", "cloudevents"]);
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn every_form_of_the_books_adds_up_to_the_ledger() {
    let server = used().await;
    let rows = server.usage();
    let ledger = total_of(&rows);
    assert!(ledger > 0 && rows.len() == 3, "{rows:?}");

    for groups in ["project", "key,user", "day,model", "endpoint"] {
        let text = server.cli(&["usage", "--format", "json", "--group-by", groups]);
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(total_of(&rows), ledger, "{groups}");
    }
    let text = server.cli(&["usage", "--format", "csv"]);
    let columns =
        "project,model,requests,prompt_tokens,cached_tokens,completion_tokens,amount,currency";
    assert_eq!(text.lines().next(), Some(columns));
    let table = csv(&text);
    assert_eq!(total(&table, "amount"), ledger);
    let mut projects = table.iter().map(|row| column(row, "project"));
    assert!(projects.any(|project| project == "acme, inc"));

    let focus = csv(&server.cli(&["usage", "--format", "focus"]));
    for cost in ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"] {
        assert_eq!(total(&focus, cost), ledger, "{cost}");
    }
    for row in &focus {
        let quantity: i128 = column(row, "PricingQuantity").parse().unwrap();
        let cost = pico(column(row, "ListUnitPrice")) * quantity;
        assert_eq!(cost, pico(column(row, "ListCost")));
    }

    let first = events(&server);
    let amounts = first
        .iter()
        .map(|event| event["data"]["amount"].as_str().unwrap());
    assert_eq!(amounts.map(pico).sum::<i128>(), ledger);
    assert_eq!(
        (first.len(), events(&server)),
        (11, first),
        "an event is the same each time"
    );
    let none = server.cli(&["usage", "--format", "json", "--to", "2000-01-01"]);
    assert_eq!(none.trim(), "[]");
}

/// The required attributes of CloudEvents 1.0, by the JSON Schema that the specification describes.
#[tokio::test]
async fn events_and_columns_are_what_their_specifications_ask_for() {
    let server = used().await;
    let schema = json!({
        "type": "object",
        "required": ["id", "source", "specversion", "type"],
        "properties": {
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
            "specversion": {"const": "1.0"},
            "type": {"type": "string", "minLength": 1},
            "subject": {"type": "string", "minLength": 1},
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "data": {"type": "object"},
        },
        // Names of attributes are lower-case letters and digits.
        "propertyNames": {"pattern": "^[a-z0-9]+$"},
    });
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap();
    for line in server.cli(&["usage", "--format", "cloudevents"]).lines() {
        let event = serde_json::from_str(line).unwrap();
        assert!(validator.is_valid(&event), "{event}");
    }
    let focus = server.cli(&["usage", "--format", "focus"]);
    let columns: Vec<_> = focus.lines().next().unwrap().split(',').collect();
    for mandatory in [
        "BilledCost",
        "BillingAccountId",
        "BillingAccountName",
        "BillingCurrency",
        "BillingPeriodEnd",
        "BillingPeriodStart",
        "ChargeCategory",
        "ChargeClass",
        "ChargeDescription",
        "ChargePeriodEnd",
        "ChargePeriodStart",
        "ContractedCost",
        "EffectiveCost",
        "InvoiceIssuerName",
        "ListCost",
        "PricingQuantity",
        "PricingUnit",
        "ProviderName",
        "PublisherName",
        "ServiceCategory",
        "ServiceName",
    ] {
        assert!(columns.contains(&mandatory), "{mandatory}");
    }
    for row in csv(&focus) {
        for name in [
            "BillingAccountId",
            "BillingCurrency",
            "ChargePeriodStart",
            "ServiceName",
            "PricingUnit",
        ] {
            assert!(!column(&row, name).is_empty(), "{name}: {row:?}");
        }
        assert_eq!(column(&row, "ChargeClass"), "");
    }
}

fn results(page: &Value) -> Vec<Value> {
    let buckets = page["data"].as_array().unwrap().iter();
    buckets
        .flat_map(|bucket| bucket["results"].as_array().unwrap().clone())
        .collect()
}

fn sum(rows: &[Value], name: &str) -> u64 {
    rows.iter().map(|row| row[name].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn usage_is_reported_as_openai_does() {
    let server = used().await;
    let admin = Admin::of(&server);
    let start = jiff::Timestamp::now().as_second() - 300;
    let get = async |kind: &str, query: &str| {
        let path = format!("/v1/organization/usage/{kind}?start_time={start}{query}");
        admin.get(&path).await
    };
    let page = get(
        "completions",
        "&bucket_width=1d&group_by=project_id&group_by[]=model",
    )
    .await;
    assert_eq!(page["object"], "page");
    let rows = results(&page);
    assert_eq!(
        (rows.len(), sum(&rows, "num_model_requests")),
        (2, 10),
        "{page}"
    );
    let [requests, prompt, completion] = server.billed(CHAT);
    let local = rows
        .iter()
        .find(|row| row["output_tokens"] == completion && row["input_tokens"] == prompt);
    assert_eq!(local.unwrap()["num_model_requests"], requests);
    assert!(
        rows.iter()
            .all(|row| row["model"] == CHAT && row["api_key_id"].is_null())
    );

    let minutes = "&bucket_width=1m&limit=3";
    let mut page = get("completions", minutes).await;
    assert_eq!(
        (page["data"].as_array().unwrap().len(), &page["has_more"]),
        (3, &json!(true))
    );
    let mut total = sum(&results(&page), "num_model_requests");
    while let Some(cursor) = page["next_page"].as_str() {
        page = get("completions", &format!("{minutes}&page={cursor}")).await;
        total += sum(&results(&page), "num_model_requests");
    }
    assert_eq!(total, 10, "the pages together are all of it");

    let embeddings = results(&get("embeddings", &format!("&models={EMBEDDINGS}")).await);
    assert_eq!(sum(&embeddings, "num_model_requests"), 1);
    let users = results(&get("completions", "&group_by=user_id&user_ids=user%200").await);
    assert_eq!((users.len(), &users[0]["user_id"]), (1, &json!("user 0")));
}

#[tokio::test]
async fn costs_are_reported_to_the_last_digit_and_bad_reports_refused_by_name() {
    let server = used().await;
    let admin = Admin::of(&server);
    let start = jiff::Timestamp::now().as_second() - 300;
    // A float would round: the text of the number is compared.
    let path = format!("/v1/organization/costs?start_time={start}&group_by=line_item");
    let text = admin
        .ask(Method::GET, &path, json!(null))
        .await
        .text()
        .await
        .unwrap();
    let values = text.split("\"value\":").skip(1);
    let values = values.map(|rest| pico(rest.split(',').next().unwrap()));
    assert_eq!(values.sum::<i128>(), total_of(&server.usage()));

    for bad in [
        "usage/completions",
        "usage/completions?start_time=x",
        "usage/completions?start_time=0&limit=0",
        "usage/completions?start_time=0&group_by=colour",
        "costs?start_time=0&bucket_width=1h",
        "usage/completions?start_time=0&page=page_7",
    ] {
        let path = format!("/v1/organization/{bad}");
        let answer = admin.ask(Method::GET, &path, json!(null)).await;
        assert_eq!(answer.status(), 400, "{bad}");
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["error"]["param"].is_string(), "{bad}");
    }
}

#[tokio::test]
async fn a_month_is_invoiced_from_the_command_line() {
    let server = used().await;
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    let early = server.refusal(&["invoice", "close", "--period", &month, "--grace", "0d"]);
    assert!(early.contains("can be closed from"), "{early}");
    assert!(
        server
            .refusal(&["invoice", "close", "--period", "2026-1"])
            .contains("no month")
    );
    assert_eq!(server.cli(&["invoice", "close", "--period", "2020-01"]), "");
    assert_eq!(server.cli(&["invoice", "list"]), "");
    assert!(
        server
            .refusal(&["invoice", "show", "inv_none"])
            .contains("inv_none")
    );
}
