//! Loading: the weights' layout, and files that can't be loaded.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{EMBEDDINGS, Server, chat, quickstart_with};

/// A models folder with nothing beside it but what the server makes there.
pub(crate) fn models(folder: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").unwrap();
    let real = Path::new(&home).join(".cache/forebay/models");
    assert!(
        real.exists(),
        "no weights: run `make test`, which fetches them"
    );
    let models = folder.join("models");
    std::os::unix::fs::symlink(real, &models).unwrap();
    models
}

fn layouts(folder: &Path, end: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join("layouts")) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

async fn answer_of(layout: &str, folder: &Path) -> String {
    let models = models_setting(folder);
    let config = quickstart_with("slots = 32", &format!("slots = 2\nlayout = \"{layout}\""));
    let server = Server::start_on(config, &[("FOREBAY_MODELS__DIR", &models)]).await;
    let answer = server
        .chat(json!({"ask": "Count from one to ten.", "max_tokens": 24}))
        .await;
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn models_setting(folder: &Path) -> String {
    folder.join("models").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_faster_layout_is_measured_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());

    assert!(!answer_of("as-is", folder.path()).await.is_empty());
    assert!(layouts(folder.path(), "").is_empty(), "as-is makes no copy");

    assert!(!answer_of("q8_0", folder.path()).await.is_empty());
    let copies = layouts(folder.path(), ".Q8_0.gguf");
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let file = size(&models.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert_eq!(copies.len(), 1);
    assert!(size(&copies[0]) > file && size(&copies[0]) < 2 * file);

    assert!(!answer_of("auto", folder.path()).await.is_empty());
    let choices = layouts(folder.path(), ".choice");
    let ratio: f64 = std::fs::read_to_string(&choices[0])
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // What it is depends on the machine and on who else uses it.
    assert!(ratio > 0.0 && ratio.is_finite(), "{ratio}");
    let when = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let first = when(&choices[0]);
    answer_of("auto", folder.path()).await;
    assert_eq!(
        when(&choices[0]),
        first,
        "a choice that is kept is not measured again"
    );
    assert_eq!(
        layouts(folder.path(), "").len(),
        2,
        "nothing unfinished is left"
    );
}

#[tokio::test]
async fn a_file_that_can_not_be_loaded_gives_one_line_and_leaves_the_rest_serving() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let whole = std::fs::read(models.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let bad = folder.path().join("bad.gguf");
    for bytes in [
        &b"no model at all"[..],
        &whole[..1000],
        &whole[..whole.len() / 2],
        &b""[..],
    ] {
        std::fs::write(&bad, bytes).unwrap();
        let new = format!("weights = \"{}\"\nslots = 2", bad.display());
        let config = quickstart_with("slots = 32", &new);
        let server = Server::start_until("/health", config, &[]).await;
        let refused = wait_until_failed(&server).await;
        assert!(
            refused.contains("bad.gguf") && !refused.contains('\n'),
            "{refused}"
        );

        let body = chat(json!({"ask": "Hello"}));
        let error = server.refused("/v1/chat/completions", &body, 503).await;
        assert_eq!(error["code"], "model_not_ready");
        let body = json!({"model": EMBEDDINGS, "input": "hello"});
        let answer = server.post("/v1/embeddings", &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// What `/ready` says once nothing is loading any more.
pub(crate) async fn wait_until_failed(server: &Server) -> String {
    for _ in 0..600 {
        let answer = server
            .client
            .get(format!("{}/ready", server.url))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 503);
        let body: Value = answer.json().await.unwrap();
        let lines = body["waiting_for"].as_array().unwrap().clone();
        if lines.len() == 1 && !lines[0].as_str().unwrap().ends_with("loading") {
            return lines[0].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it loads without end:\n{}", server.log());
}
