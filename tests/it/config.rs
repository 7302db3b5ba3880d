//! What an operator sees of a bad config, and of the command line.

use crate::harness::{forebay, run};

#[test]
fn a_bad_config_is_exit_code_64_and_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let good = "[[worker]]\nname = \"w\"\nengine = \"llama\"\nmodel = \"m\"\n";
    for (text, word) in [
        ("[server]\nlissten = 1\n".to_owned(), "lissten"),
        ("[server\n".to_owned(), "config"),
        (
            format!("{good}[tenancy]\nbootstrap_key = \"k\"\n[server]\nlisten = \"0.0.0.0:0\"\n"),
            "loopback",
        ),
        (good.to_owned(), "no model named m"),
        (
            format!("{good}[store]\nurl = \"mysql://u:secret@h\"\n"),
            "mysql",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        for command in ["check", "serve"] {
            let output = run(&[command, "--config", path.to_str().unwrap()]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{error}");
            assert!(error.contains(word), "{error}");
            assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        }
    }
    assert_eq!(
        run(&["check", "--config", "no/such.toml"]).status.code(),
        Some(64)
    );
}

#[test]
fn the_bootstrap_key_refuses_any_bind_but_loopback() {
    let output = forebay()
        .args(["serve", "--config", "config/quickstart.toml"])
        .env("FOREBAY_SERVER__LISTEN", "0.0.0.0:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_command_makes_and_migrates_the_store_when_it_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("deep/t.db").display());
    let cli = |arguments: &[&str]| {
        let output = forebay()
            .args(arguments)
            .env("FOREBAY_STORE__URL", &url)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (made, id) = cli(&["project", "create", "acme"]);
    assert!(made && id.trim().starts_with("proj_") && id.lines().count() == 1);
    for project in ["acme", id.trim()] {
        let (made, secret) = cli(&["key", "create", "--project", project]);
        assert!(made && secret.trim().len() == 51 && secret.lines().count() == 1);
        let stored = std::fs::read(folder.path().join("deep/t.db")).unwrap();
        assert!(
            !contains(&stored, secret.trim().as_bytes()),
            "the secret is in the store"
        );
    }
    assert!(
        !cli(&["project", "create", "acme"]).0,
        "a name is taken once"
    );
    assert!(!cli(&["key", "create", "--project", "nobody"]).0);
    assert_eq!(
        cli(&["usage", "--format", "json"]),
        (true, "[]\n".to_owned())
    );
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
