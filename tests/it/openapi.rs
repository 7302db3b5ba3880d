//! The document of the API, and the page to read it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Server;

async fn get(server: &Server, path: &str) -> reqwest::Response {
    let url = format!("{}{path}", server.url);
    server.client.get(url).send().await.unwrap()
}

/// Every `$ref` in it.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_has_every_route_with_its_errors() {
    let server = Server::start().await;
    let answer = get(&server, "/openapi.json").await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let document: Value = answer.json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let routes = forebay::api::paths();
    assert!(routes.len() > 30);
    for route in &routes {
        let operations = paths[&route.replace("{*", "{")].as_object().unwrap();
        for (method, operation) in operations {
            let name = format!("{method} {route}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(operation["summary"].is_string(), "{name} says nothing");
            assert!(responses.contains_key("500"), "{name}");
            let open = operation["security"] == serde_json::json!([{}]);
            assert_eq!(open, ["/health", "/ready"].contains(&route.as_str()));
            assert_eq!(responses.contains_key("401"), !open, "{name}");
            let has_body = operation.get("requestBody").is_some();
            assert_eq!(responses.contains_key("413"), has_body, "{name}");
        }
    }
    let ids: Vec<_> = paths
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let different: BTreeSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), different.len(), "{ids:?}");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_page_takes_nothing_from_outside() {
    let server = Server::start().await;
    let answer = get(&server, "/docs").await;
    assert_eq!(answer.url().path(), "/docs/");
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let page = answer.text().await.unwrap();
    assert!(!page.contains("//"), "{page}");
    let mut files: Vec<_> = page
        .split('"')
        .filter(|word| word.starts_with("./"))
        .map(|word| &word[2..])
        .collect();
    files.push("swagger-initializer.js");
    assert!(files.len() > 3, "{page}");
    for file in files {
        let answer = get(&server, &format!("/docs/{file}")).await;
        assert_eq!(answer.status(), 200, "{file}");
        assert!(!answer.bytes().await.unwrap().is_empty());
    }
    let settings = get(&server, "/docs/swagger-initializer.js").await;
    let settings = settings.text().await.unwrap();
    assert!(settings.contains("/openapi.json"), "{settings}");
    assert!(
        settings.contains("\"validatorUrl\": \"none\""),
        "{settings}"
    );
    let none = get(&server, "/docs/none.js").await;
    assert_eq!(none.status(), 404);
    let error: Value = none.json().await.unwrap();
    assert_eq!(error["error"]["code"], "not_found");
}
