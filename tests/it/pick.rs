//! The smallest that is good enough: models of two sizes and an adapter, weighed by what they cost.

use loadtest::upstream::{Script, Upstream};

use crate::harness::{CHAT, KEY, Server, quickstart_with, root};
use crate::remote::MODEL;

/// The base here, its adapter, and a large model elsewhere that knows the answer, each at its price; and the log lines that belong
/// under `intake`.
async fn site(folder: &std::path::Path) -> (Upstream, Server, String) {
    let script = Script {
        pieces: vec!["intake".into()],
        ..Script::words(0)
    };
    let upstream = Upstream::start(script, 0).await.unwrap();
    let adapter = root().join("config/examples/hydropower/triage.gguf");
    let more = format!(
        "[[worker]]\nname = \"gpu\"\nengine = \"remote\"\nurl = \"{}\"\nmodels = [\"{MODEL}\"]
         [[model]]\nname = \"{MODEL}\"\nprice = {{ prompt = \"5\", completion = \"15\" }}
         [[model]]\nname = \"triage-lora\"\nbase = \"{CHAT}\"\nadapter = \"{}\"\nprice = {{ prompt = \"0.03\", completion = \"0.09\" }}

         [[model]]\nname = \"{CHAT}\"",
        upstream.url(),
        adapter.display()
    );
    let config = quickstart_with(&format!("[[model]]\nname = \"{CHAT}\""), &more);
    let items =
        std::fs::read_to_string(root().join("config/examples/hydropower/triage.jsonl")).unwrap();
    let intake: Vec<_> = items
        .lines()
        .filter(|line| line.contains("\"expected\": \"intake\""))
        .collect();
    assert!(intake.len() > 20, "{}", intake.len());
    std::fs::write(folder.join("items.jsonl"), intake.join("\n")).unwrap();
    let suite = folder.join("suite.toml");
    let text = "name = \"intake\"\n[[task]]\nname = \"written\"\nitems = \"items.jsonl\"\nmax_tokens = 8\nscore = { by = \"normalised\" }\n";
    std::fs::write(&suite, text).unwrap();
    let server = Server::start_on(config, &[]).await;
    (upstream, server, suite.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheapest_that_meets_the_bar_is_named_or_that_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (_upstream, server, suite) = site(folder.path()).await;
    let models = format!("{MODEL},{CHAT},triage-lora");
    let command = |bar: &'static str| {
        let words = [
            "eval",
            "pick",
            &suite,
            "--models",
            &models,
            "--bar",
            bar,
            "--url",
            &server.url,
            "--key",
            KEY,
        ];
        words.map(str::to_owned)
    };
    let picks = |bar: &'static str| {
        let command = command(bar);
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let output = tokio::task::block_in_place(|| server.output(&words));
        let said = String::from_utf8(output.stderr).unwrap();
        (
            output.status.success(),
            said.lines().last().unwrap_or_default().to_owned(),
        )
    };
    // What the base writes is no label, and its adapter costs next to nothing.
    let (picked, said) = picks("0.05");
    assert!(
        picked && said.starts_with("triage-lora is good enough at the least cost"),
        "{said}"
    );
    let (picked, said) = picks("0.8");
    assert!(
        picked && said.starts_with("big is good enough at the least cost"),
        "{said}"
    );
    // Not even all of so few items right make one so sure.
    let (picked, said) = picks("0.99");
    assert!(
        !picked && said.contains("none of the models reaches 0.99"),
        "{said}"
    );
}
