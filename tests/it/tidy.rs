//! Style as a test: which way imports point, and how long a file may be.

use std::path::{Path, PathBuf};

use crate::harness::root;

const MAX_LINES: usize = 600;
/// In the order in which a request meets them. Imports point down only.
const ORDER: [&str; 13] = [
    "api",
    "gateway",
    "batch",
    "files",
    "tenancy",
    "router",
    "scheduler",
    "worker",
    "metering",
    "telemetry",
    "config",
    "guard",
    "types",
];
/// The wiring, which may name everything.
const WIRING: [&str; 3] = ["app", "cli", "lib"];

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "{folder} holds no Rust");
    files
}

/// `src/api/error.rs` is of `api`, `src/app.rs` of `app`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names as `crate::name` or inside `crate::{...}`.
fn named(text: &str) -> Vec<String> {
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut names = Vec::new();
    for part in text.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            None => names.push(word(part)),
            Some(group) => {
                let group = group.split('}').next().unwrap();
                names.extend(group.split(',').map(|item| word(item.trim())));
            }
        }
    }
    names
}

#[test]
fn imports_point_down_the_list() {
    for path in rust_files("src") {
        let module = module(&path);
        // Tests may fetch what they need; main and lib name the top alone.
        let is_test = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
        if WIRING.contains(&module.as_str()) || module == "main" || is_test {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let own = ORDER.iter().position(|name| *name == module);
        for name in named(&text) {
            let Some(other) = ORDER.iter().position(|known| *known == name) else {
                assert!(name == module, "{}: names crate::{name}", path.display());
                continue;
            };
            let down = match own {
                Some(own) => other >= own,
                // The store stands beside: it knows the words alone.
                None => name == "types",
            };
            assert!(down, "{}: {module} must not name {name}", path.display());
            let worker_is_named_by = ["worker", "scheduler"];
            assert!(
                name != "worker" || worker_is_named_by.contains(&module.as_str()),
                "{}: only the scheduler asks workers",
                path.display()
            );
        }
    }
}

#[test]
fn each_outer_library_has_one_place() {
    for (library, place) in [
        ("axum::", "api"),
        ("sqlx::", "store"),
        ("clap::", "cli"),
        ("llama_cpp_2::", "worker"),
        ("hyper_util::client", "worker"),
    ] {
        for path in rust_files("src") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                module(&path) == place || !text.contains(library),
                "{}: {library} belongs to {place}",
                path.display()
            );
        }
    }
}

#[test]
fn files_are_short() {
    let folders = ["src", "tests", "loadtest/src"];
    for path in folders.iter().flat_map(|folder| rust_files(folder)) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        // The tests of `model pull` are one long list of cases.
        assert!(lines <= MAX_LINES, "{}: {lines} lines", path.display());
    }
}

#[test]
fn no_file_names_this_machine_or_a_registry() {
    let home = std::env::var("HOME").unwrap_or_default();
    for path in ["src", "tests", "loadtest/src"]
        .iter()
        .flat_map(|folder| rust_files(folder))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in [
            home.as_str(),
            concat!("pypi", ".org"),
            concat!("crates", ".io"),
            "/work/",
        ] {
            let own_list = path.ends_with("tidy.rs");
            assert!(
                own_list || word.len() < 2 || !text.contains(word),
                "{}: {word}",
                path.display()
            );
        }
    }
}
