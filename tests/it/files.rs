//! Files and uploads.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{KEY, Server};
use crate::tenancy::ask;

const BOUNDARY: &str = "a-line-that-stands-in-no-content";

/// A part of a form: its name, its file name where it is a file, and its content.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

pub(crate) async fn form(server: &Server, key: &str, path: &str, parts: &[Part<'_>]) -> Response {
    let mut body = Vec::new();
    for (name, filename, content) in parts {
        let filename = filename.map_or(String::new(), |name| format!("; filename=\"{name}\""));
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    let request = server
        .client
        .post(format!("{}{path}", server.url))
        .bearer_auth(key)
        .header(
            "content-type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        );
    request.body(body).send().await.unwrap()
}

/// A file that must be taken.
pub(crate) async fn upload(
    server: &Server,
    key: &str,
    purpose: &str,
    name: &str,
    content: &[u8],
) -> Value {
    let parts: [Part<'_>; 2] = [
        ("purpose", None, purpose.as_bytes()),
        ("file", Some(name), content),
    ];
    let answer = form(server, key, "/v1/files", &parts).await;
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) async fn content(server: &Server, id: &str) -> Vec<u8> {
    let path = format!("/v1/files/{id}/content");
    let answer = ask(server, KEY, Method::GET, &path, json!(null)).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap().to_vec()
}

async fn get(server: &Server, path: &str) -> Value {
    let answer = ask(server, KEY, Method::GET, path, json!(null)).await;
    answer.json().await.unwrap()
}

/// Bytes that repeat nothing.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_and_goes_when_it_is_told_to() {
    let server = Server::start().await;
    // Several pieces, and one that is exactly full.
    for length in [0, 5, 1 << 20, (3 << 20) + 17] {
        let bytes = noise(length);
        let file = upload(&server, KEY, "user_data", "noise.bin", &bytes).await;
        assert_eq!(file["bytes"], length);
        let id = file["id"].as_str().unwrap();
        assert!(id.starts_with("file-"), "{id}");
        assert!(
            content(&server, id).await == bytes,
            "{length} bytes came back as others"
        );
    }
    let first = upload(&server, KEY, "batch", "one.jsonl", b"{}").await;
    let second = upload(&server, KEY, "batch", "two.jsonl", b"{}").await;
    assert_eq!(
        (&first["object"], &first["filename"], &first["purpose"]),
        (&json!("file"), &json!("one.jsonl"), &json!("batch"))
    );
    let list = get(&server, "/v1/files?purpose=batch&limit=1").await;
    assert_eq!(
        (&list["data"][0]["id"], &list["has_more"]),
        (&second["id"], &json!(true)),
        "newest first"
    );
    let after = second["id"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/files?purpose=batch&after={after}")).await;
    assert_eq!(rest["data"], json!([first]));
    let ascending = get(&server, "/v1/files?purpose=batch&order=asc").await;
    assert_eq!(ascending["data"], json!([first, second]));

    let path = format!("/v1/files/{}", first["id"].as_str().unwrap());
    assert_eq!(get(&server, &path).await, first);
    let gone = ask(&server, KEY, Method::DELETE, &path, json!(null)).await;
    let gone: Value = gone.json().await.unwrap();
    assert_eq!(
        gone,
        json!({"id": first["id"], "object": "file", "deleted": true})
    );
    for method in [Method::GET, Method::DELETE] {
        let answer = ask(&server, KEY, method, &path, json!(null)).await;
        assert_eq!(answer.status(), 404);
    }
}

#[tokio::test]
async fn a_form_that_is_wrong_is_refused_by_its_field_and_leaves_nothing() {
    let server = Server::start_with(&[
        ("FOREBAY_FILES__MAX_BYTES", "1000"),
        ("FOREBAY_FILES__MAX_BYTES_PER_PROJECT", "1500"),
    ])
    .await;
    let file: Part<'_> = ("file", Some("a"), b"abc");
    let purpose: Part<'_> = ("purpose", None, b"batch");
    let large = noise(1001);
    let refusals: [(&[Part<'_>], u16, Value); 8] = [
        (&[file], 400, json!("purpose")),
        (&[purpose], 400, json!("file")),
        (&[file, file, purpose], 400, json!("file")),
        (&[purpose, file, purpose], 400, json!("purpose")),
        (
            &[file, ("purpose", None, b"nonsense")],
            400,
            json!("purpose"),
        ),
        (
            &[file, ("purpose", None, b"batch_output")],
            400,
            json!("purpose"),
        ),
        (
            &[
                file,
                purpose,
                ("expires_after[anchor]", None, b"created_at"),
                ("expires_after[seconds]", None, b"60"),
            ],
            400,
            json!("expires_after[seconds]"),
        ),
        (&[purpose, ("file", Some("a"), &large)], 413, json!(null)),
    ];
    for (parts, status, param) in refusals {
        let answer = form(&server, KEY, "/v1/files", parts).await;
        assert_eq!(answer.status(), status);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["param"], param, "{body}");
    }
    // What is no form, and what comes as another kind.
    let error = server
        .refused("/v1/files", &json!({"purpose": "batch"}), 400)
        .await;
    assert_eq!(error["type"], "invalid_request_error");

    // None of them counts: there is still room for what may be there together, and for no more.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let kept = upload(&server, KEY, "batch", "a", &noise(900)).await;
    upload(&server, KEY, "batch", "b", &noise(600)).await;
    let full = form(&server, KEY, "/v1/files", &[purpose, file]).await;
    assert_eq!(full.status(), 413);
    let full: Value = full.json().await.unwrap();
    assert_eq!(full["error"]["code"], "storage_quota_exceeded");
    let path = format!("/v1/files/{}", kept["id"].as_str().unwrap());
    ask(&server, KEY, Method::DELETE, &path, json!(null)).await;
    upload(&server, KEY, "batch", "c", &noise(900)).await;
}

#[tokio::test]
async fn an_upload_becomes_the_file_that_its_parts_make_in_their_order() {
    let server = Server::start().await;
    let whole = noise((2 << 20) + 4);
    let (one, two) = whole.split_at((1 << 20) + 1);
    let make = async |bytes: usize| {
        let wish = json!({
            "filename": "w.bin", "purpose": "user_data", "bytes": bytes, "mime_type": "application/octet-stream",
        });
        let made = ask(&server, KEY, Method::POST, "/v1/uploads", wish).await;
        let made: Value = made.json().await.unwrap();
        assert_eq!(
            (&made["object"], &made["status"]),
            (&json!("upload"), &json!("pending"))
        );
        format!("/v1/uploads/{}", made["id"].as_str().unwrap())
    };
    let part = async |path: &str, content: &[u8]| {
        let parts: [Part<'_>; 1] = [("data", Some("blob"), content)];
        let made = form(&server, KEY, &format!("{path}/parts"), &parts).await;
        let made: Value = made.json().await.unwrap();
        assert_eq!(made["object"], "upload.part", "{made}");
        made["id"].clone()
    };
    let post = async |path: String, body: Value| {
        let answer = ask(&server, KEY, Method::POST, &path, body).await;
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let path = make(whole.len()).await;
    let second = part(&path, two).await;
    let first = part(&path, one).await;
    let spare = part(&path, b"nobody wants this").await;
    let complete = format!("{path}/complete");
    let right = json!([first, second]);
    let md5 = "00000000000000000000000000000000";
    for (body, param) in [
        (json!({"part_ids": [first]}), "part_ids"),
        (json!({"part_ids": [first, first]}), "part_ids"),
        (json!({"part_ids": [first, second, spare]}), "part_ids"),
        (json!({"part_ids": []}), "part_ids"),
        (json!({"part_ids": right, "md5": md5}), "md5"),
    ] {
        let (status, answer) = post(complete.clone(), body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)));
    }
    let (status, done) = post(complete.clone(), json!({"part_ids": right})).await;
    assert_eq!((status, &done["status"]), (200, &json!("completed")));
    let id = done["file"]["id"].as_str().unwrap();
    assert_eq!(done["file"]["bytes"], whole.len());
    assert!(content(&server, id).await == whole);
    // What is over is over.
    for path in [complete, format!("{path}/cancel")] {
        assert_eq!(post(path, json!({"part_ids": right})).await.0, 400);
    }
    let gone = ask(
        &server,
        KEY,
        Method::DELETE,
        &format!("/v1/files/{id}"),
        json!(null),
    )
    .await;
    assert_eq!(gone.status(), 200);

    let path = make(4).await;
    part(&path, b"abcd").await;
    let (status, given_up) = post(format!("{path}/cancel"), json!(null)).await;
    assert_eq!((status, &given_up["status"]), (200, &json!("cancelled")));
}
