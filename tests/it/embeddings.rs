//! Vectors as sentence-transformers makes them, however they are asked for. `tests/fixtures/embeddings`
//! has its own for the same texts, and says how they were made.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future;
use serde_json::{Value, json};

use crate::harness::{EMBEDDINGS, Server, root};

const PATH: &str = "/v1/embeddings";
/// Special tokens around a text.
const SPECIAL: usize = 2;

/// What `make.py` wrote.
struct Fixture(Value);

impl Fixture {
    fn read() -> Self {
        let path = root().join("tests/fixtures/embeddings/vectors.json");
        let fixture = Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
        assert_eq!(fixture.texts().len(), 50);
        fixture
    }

    fn column(&self, name: &str) -> Vec<&Value> {
        let texts = self.0["texts"].as_array().unwrap();
        texts.iter().map(|text| &text[name]).collect()
    }

    fn texts(&self) -> Vec<&Value> {
        self.column("text")
    }

    fn vectors(&self) -> Vec<Vec<f32>> {
        self.column("vector").into_iter().map(unpacked).collect()
    }

    fn tokens(&self) -> usize {
        let ids = self.column("ids");
        ids.iter()
            .map(|ids| ids.as_array().unwrap().len() + SPECIAL)
            .sum()
    }
}

fn unpacked(base64: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(base64.as_str().unwrap()).unwrap();
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks(4).map(number).collect()
}

/// With embedding workers alone, each of them `(model, more lines)`.
fn config(workers: &[(&str, String)]) -> PathBuf {
    let mut text = String::from("[tenancy]\nbootstrap_key = \"fb-local\"\n");
    for (name, more) in workers {
        text += &format!(
            "[[worker]]\nname = \"{name}\"\nengine = \"bert\"\nmodel = \"{name}\"\n{more}\n\
             [[model]]\nname = \"{name}\"\n"
        );
    }
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(config.path(), text).unwrap();
    config.keep().unwrap().1
}

async fn server() -> Server {
    Server::start_on(config(&[(EMBEDDINGS, String::new())]), &[]).await
}

/// An answer that must come, whole.
async fn ask(server: &Server, body: &Value) -> Value {
    let answer = server.post(PATH, body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The vectors of an answer, in order.
fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().unwrap();
    let vector = |(index, item): (usize, &Value)| {
        assert_eq!(item["index"], index);
        serde_json::from_value(item["embedding"].clone()).unwrap()
    };
    data.iter().enumerate().map(vector).collect()
}

async fn embed(server: &Server, input: Value) -> Vec<Vec<f32>> {
    let body = json!({"model": EMBEDDINGS, "input": input});
    vectors(&ask(server, &body).await)
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], within: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        let far = found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(far <= within, "vector {index} is off by {far}");
    }
}

fn length(vector: &[f32]) -> f64 {
    let squares = vector.iter().map(|x| f64::from(*x) * f64::from(*x));
    squares.sum::<f64>().sqrt()
}

#[tokio::test]
async fn vectors_are_those_of_sentence_transformers() {
    let (server, fixture) = (server().await, Fixture::read());
    let together = ask(
        &server,
        &json!({"model": EMBEDDINGS, "input": fixture.texts()}),
    )
    .await;
    assert_close(&vectors(&together), &fixture.vectors(), 1e-4);
    assert_eq!(together["usage"]["prompt_tokens"], fixture.tokens());
    assert_eq!(together["usage"]["total_tokens"], fixture.tokens());
    for (text, expected) in fixture.texts().into_iter().zip(fixture.vectors()) {
        assert_close(&embed(&server, text.clone()).await, &[expected], 1e-4);
    }
    let tokens = 2 * fixture.tokens() as u64;
    assert_eq!(server.billed(EMBEDDINGS), [51, tokens, 0]);
}

#[tokio::test]
async fn requests_at_once_get_their_own_vectors() {
    let (server, fixture) = (server().await, Fixture::read());
    let asked = fixture
        .texts()
        .into_iter()
        .map(|text| embed(&server, text.clone()));
    let found: Vec<_> = future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect();
    assert_close(&found, &fixture.vectors(), 1e-4);
}

#[tokio::test]
async fn token_ids_give_what_their_text_gives() {
    let (server, fixture) = (server().await, Fixture::read());
    let ids = fixture.column("ids");
    let body = json!({"model": EMBEDDINGS, "input": ids});
    let answer = ask(&server, &body).await;
    assert_close(&vectors(&answer), &fixture.vectors(), 1e-4);
    assert_eq!(answer["usage"]["prompt_tokens"], fixture.tokens());
    // A flat list is one text.
    let one = embed(&server, ids[3].clone()).await;
    assert_close(&one, &fixture.vectors()[3..4], 1e-4);
}

#[tokio::test]
async fn fewer_dimensions_are_the_first_ones_at_unit_length() {
    let (server, fixture) = (server().await, Fixture::read());
    for dimensions in [1, 7, 128, 384] {
        let body =
            json!({"model": EMBEDDINGS, "input": fixture.texts()[..8], "dimensions": dimensions});
        let found = vectors(&ask(&server, &body).await);
        let mut expected = fixture.vectors()[..8].to_vec();
        for vector in &mut expected {
            vector.truncate(dimensions);
            let length = length(vector);
            vector
                .iter_mut()
                .for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        // What is scaled up takes its error with it.
        assert_close(&found, &expected, if dimensions > 7 { 1e-4 } else { 1e-3 });
        for vector in found {
            assert!((length(&vector) - 1.0).abs() < 1e-5);
        }
    }
}

#[tokio::test]
async fn base64_holds_the_numbers_that_float_shows() {
    let (server, fixture) = (server().await, Fixture::read());
    let mut body = json!({"model": EMBEDDINGS, "input": fixture.texts()[..5], "dimensions": 100});
    let shown = vectors(&ask(&server, &body).await);
    body["encoding_format"] = json!("base64");
    let answer = ask(&server, &body).await;
    let packed = answer["data"].as_array().unwrap().iter();
    let packed: Vec<_> = packed.map(|item| unpacked(&item["embedding"])).collect();
    assert_eq!(packed, shown);
}

#[tokio::test]
async fn a_request_may_have_2048_inputs() {
    let (server, fixture) = (server().await, Fixture::read());
    let (texts, expected) = (fixture.texts(), fixture.vectors());
    // All but the two longest, over and over.
    let index = |place: usize| place * 31 % 48;
    let input: Vec<_> = (0..2048).map(|place| texts[index(place)]).collect();
    // Meanwhile others have their turn.
    let long = embed(&server, json!(input));
    let short = embed(&server, texts[0].clone());
    let (long, short) = future::join(long, short).await;
    let of_long: Vec<_> = (0..2048)
        .map(|place| expected[index(place)].clone())
        .collect();
    assert_close(&long, &of_long, 1e-4);
    assert_close(&short, &expected[..1], 1e-4);
}

#[tokio::test]
async fn what_is_wrong_is_named_to_the_index() {
    let server = server().await;
    let long = "word ".repeat(255);
    let many: Vec<_> = (0..2049).map(|_| "x").collect();
    for (field, value, param) in [
        ("input", json!(""), "input"),
        ("input", json!([]), "input"),
        ("input", json!(7), "input"),
        ("input", json!(null), "input"),
        ("input", json!({"text": "x"}), "input"),
        ("input", json!(many), "input"),
        ("input", json!(["x", ""]), "input[1]"),
        ("input", json!(["x", null]), "input[1]"),
        ("input", json!([[1, 2], []]), "input[1]"),
        ("input", json!([1, -2]), "input[1]"),
        ("input", json!([[5], [1, 2.5]]), "input[1][1]"),
        ("input", json!([1, 4_294_967_296_u64]), "input[1]"),
        ("input", json!(["x", 1]), "input"),
        ("input", json!([1, "x"]), "input"),
        ("input", json!(["x", [1]]), "input"),
        // The vocabulary ends before 30522.
        ("input", json!([30522]), "input"),
        ("input", json!([[1], [30521], [2, 30522]]), "input[2]"),
        ("dimensions", json!(0), "dimensions"),
        ("dimensions", json!(-1), "dimensions"),
        ("dimensions", json!(385), "dimensions"),
        ("dimensions", json!("all"), "dimensions"),
        ("encoding_format", json!("hex"), "encoding_format"),
    ] {
        let mut body = json!({"model": EMBEDDINGS, "input": "x"});
        body[field] = value;
        let error = server.refused(PATH, &body, 400).await;
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    for (input, param) in [
        (json!(long), "input"),
        (json!(["x", long]), "input[1]"),
        (json!([[1], vec![1; 255]]), "input[1]"),
        (json!(["x", "a".repeat(1 << 20)]), "input[1]"),
    ] {
        let body = json!({"model": EMBEDDINGS, "input": input});
        let error = server.refused(PATH, &body, 400).await;
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["param"], param, "{error}");
    }
    // What just fits: 254 tokens and the two special ones.
    embed(&server, json!(["word ".repeat(254), "x"])).await;
    embed(&server, json!(vec![1; 254])).await;
    assert_eq!(
        server.billed(EMBEDDINGS)[0],
        2,
        "what was refused is not booked"
    );
}

#[tokio::test]
async fn a_request_beyond_300_000_tokens_is_refused_as_a_whole() {
    let server = server().await;
    let input = vec![vec![1; 254]; 1200];
    let body = json!({"model": EMBEDDINGS, "input": input});
    let error = server.refused(PATH, &body, 400).await;
    assert_eq!(error["param"], "input");
    assert!(error["message"].as_str().unwrap().contains("300000"));
}

/// A copy of the model's folder, with another pooling and no normalisation.
fn folder_with(pooling: &str, folder: &Path) -> String {
    let home = std::env::var_os("HOME").unwrap();
    let pulled = Path::new(&home)
        .join(".cache/forebay/models")
        .join(EMBEDDINGS);
    let folder = folder.join(pooling);
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "sentence_bert_config.json",
    ] {
        std::os::unix::fs::symlink(pulled.join(name), folder.join(name)).unwrap();
    }
    let modules = json!([
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]);
    std::fs::write(folder.join("modules.json"), modules.to_string()).unwrap();
    let pooling = json!({format!("pooling_mode_{pooling}"): true});
    std::fs::write(folder.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
    format!("weights = {:?}", folder.display().to_string())
}

#[tokio::test]
async fn pooling_and_normalising_are_as_the_models_folder_says() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), Fixture::read());
    let poolings = [
        ("cls", "cls_token"),
        ("max", "max_tokens"),
        ("mean", "mean_tokens"),
        ("mean_sqrt_len", "mean_sqrt_len_tokens"),
    ];
    let workers = poolings.map(|(name, field)| (name, folder_with(field, folder.path())));
    let server = Server::start_on(config(&workers), &[]).await;
    for (name, _) in poolings {
        let expected = fixture.0["pooled"][name].as_array().unwrap();
        let expected: Vec<_> = expected.iter().map(unpacked).collect();
        assert!(expected.iter().all(|vector| length(vector) > 1.5));
        let body = json!({"model": name, "input": fixture.texts()[..expected.len()]});
        let found = vectors(&ask(&server, &body).await);
        // As near as the ones of unit length, for vectors that are longer.
        let within = expected
            .iter()
            .map(|vector| length(vector))
            .fold(1.0, f64::max) as f32
            * 1e-4;
        assert_close(&found, &expected, within);
    }
}

#[tokio::test]
async fn a_pooling_that_is_not_known_is_told_and_never_gets_ready() {
    let folder = tempfile::tempdir().unwrap();
    let workers = [("last", folder_with("lasttoken", folder.path()))];
    let server = Server::start_until("/health", config(&workers), &[]).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !server
        .log()
        .contains("the pooling `lasttoken` is not supported")
    {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let body = json!({"model": "last", "input": "x"});
    let error = server.refused(PATH, &body, 503).await;
    assert_eq!(error["code"], "model_not_ready");
}
