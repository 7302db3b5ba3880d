//! Each test pulls through a `Puller` of its own: folder, pip and hub are local stand-ins.

mod parts;
mod site;

use std::fs::{self};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};

use super::catalogue::Catalogue;
use super::{list, models_dir_from};

use self::site::*;

#[test]
fn the_built_in_catalogue_holds_the_two_models_of_the_quickstart_and_gemma() -> Result<()> {
    let catalogue = Catalogue::load(None)?;
    let names: Vec<_> = catalogue
        .models()
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["smollm2-135m-instruct", "all-minilm-l6-v2", "gemma-3-270m"]
    );
    let places: Vec<_> = catalogue
        .models()
        .iter()
        .map(|model| model.location(Path::new("/m")))
        .collect();
    assert_eq!(
        places,
        [
            Path::new("/m/SmolLM2-135M-Instruct.Q4_1.gguf"),
            Path::new("/m/all-minilm-l6-v2"),
            Path::new("/m/gemma-3-270m-q4_k_m.gguf")
        ]
    );
    Ok(())
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() -> Result<()> {
    let error = failure(Catalogue::load(None)?.find_all(&["gpt-17".to_owned()]))?;
    assert_eq!(
        error,
        "no model named gpt-17 in the catalogue; it has: smollm2-135m-instruct, all-minilm-l6-v2, gemma-3-270m"
    );
    Ok(())
}

#[test]
fn a_catalogue_that_could_write_elsewhere_or_run_options_is_refused() -> Result<()> {
    let sound = hub_entry();
    for (from, to) in [
        ("inner/toy.gguf", "inner/../../toy.gguf"),
        ("inner/toy.gguf", "/etc/passwd"),
        ("\"toy.gguf\"", "\"..\""),
        ("\"toy.gguf\"", "\".partial/.lock\""),
        ("\"toy.gguf\"", "\"a\\\\b\""),
        ("\"toy\"", "\"../toy\""),
        ("\"toy\"", "\"a/b\""),
        ("license", "dir = \"/tmp\"\nlicense"),
        ("hf:someone/toy@v1", "pypi:--index-url=x==1"),
        ("hf:someone/toy@v1", "pypi:toy"),
        ("hf:someone/toy@v1", "hf:toy"),
        ("hf:someone/toy@v1", "https://example.org/toy"),
        ("license", "colour = \"red\"\nlicense"),
        (&sum(&body()), "abc"),
    ] {
        let text = sound.replacen(from, to, 1);
        assert_ne!(text, sound, "{from} isn't in the entry");
        assert!(
            Catalogue::parse(&text, Path::new("")).is_err(),
            "accepted {to}"
        );
    }
    Catalogue::parse(&sound, Path::new(""))?;
    let twice = failure(Catalogue::parse(&format!("{sound}{sound}"), Path::new("")))?;
    assert_eq!(twice, "model toy is there twice");
    Ok(())
}

#[test]
fn a_cut_connection_is_continued_where_it_broke() -> Result<()> {
    let half = body().len() / 2;
    let server = Server::start(Manner {
        body: body(),
        cut_after: Some(half),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    let out = site.pull(&hub_entry())?;
    assert_eq!(
        out,
        format!(
            "toy: license MIT\ntoy: ready: {}\n",
            site.final_file().display()
        )
    );
    assert_eq!(server.ranges(), ["-".to_owned(), format!("bytes={half}-")]);
    assert!(server.heads()[0].starts_with("GET /someone/toy/resolve/v1/inner/toy.gguf "));
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_later_pull_continues_what_an_earlier_one_left() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    site.leave_partial(&body()[..1000])?;
    site.pull(&hub_entry())?;
    assert_eq!(server.ranges(), ["bytes=1000-"]);
    assert_eq!(fs::read(site.final_file())?, body());
    Ok(())
}

#[test]
fn a_server_that_never_gets_further_is_given_up_and_the_partial_file_stays() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        cut_after: Some(0),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    site.leave_partial(&body()[..1000])?;
    let error = site.pull_error(&hub_entry())?;
    assert!(
        error.contains("another pull goes on from byte 1000"),
        "{error}"
    );
    assert_eq!(server.ranges(), ["bytes=1000-"; 5]);
    assert_eq!(fs::read(site.partial_file())?, &body()[..1000]);
    assert!(!site.final_file().exists());
    Ok(())
}

#[test]
fn a_server_that_ignores_the_range_is_read_from_the_start() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ignores_ranges: true,
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    site.leave_partial(b"0123456789")?;
    site.pull(&hub_entry())?;
    assert_eq!(server.ranges(), ["bytes=10-"]);
    assert_eq!(fs::read(site.final_file())?, body());
    Ok(())
}

#[test]
fn a_partial_file_longer_than_the_whole_is_thrown_away() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    site.leave_partial(&[body(), vec![0; 10]].concat())?;
    site.pull(&hub_entry())?;
    assert_eq!(server.ranges(), ["-"]);
    Ok(())
}

#[test]
fn a_redirect_keeps_the_range_and_drops_the_token() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        redirects: true,
        ..Manner::default()
    })?;
    let mut site = Site::new(&server.endpoint)?;
    site.puller.hub.token = Some("hf_secret".to_owned());
    site.leave_partial(&body()[..1000])?;
    site.pull(&hub_entry())?;
    assert_eq!(server.ranges(), ["bytes=1000-"; 2]);
    let heads = server.heads();
    assert_eq!(value(&heads[0], "authorization"), Some("Bearer hf_secret"));
    assert_eq!(value(&heads[1], "authorization"), None);
    Ok(())
}

#[test]
fn a_file_with_the_wrong_checksum_is_removed_and_both_sums_are_named() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    let pinned = "ab".repeat(32);
    let error = site.pull_error(&entry("hf:someone/toy", &pinned, body().len()))?;
    assert!(
        error.contains(&pinned) && error.contains(&sum(&body())),
        "{error}"
    );
    assert!(!site.final_file().exists());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_checked_file_outlives_the_failure_of_its_sibling() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    let (good, bad) = (sum(&body()), "ab".repeat(32));
    let bytes = body().len();
    let text = hub_entry();
    let files = text.find("files").context("an entry has files")?;
    let catalogue = format!(
        r#"{}files = [{{ name = "a", sha256 = "{good}", bytes = {bytes} }}, {{ name = "b", sha256 = "{bad}", bytes = {bytes} }}]"#,
        &text[..files]
    );
    site.pull_error(&catalogue)?;
    assert_eq!(site.unfinished()?, [format!("{good}-a")]);
    assert!(
        !site.puller.models_dir.join("toy").exists(),
        "a half model was put in place"
    );
    site.pull_error(&catalogue)?;
    assert_eq!(
        server.ranges().len(),
        3,
        "the checked file was fetched again"
    );
    Ok(())
}

#[test]
fn a_file_that_is_already_there_costs_no_request() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    fs::create_dir_all(&site.puller.models_dir)?;
    fs::write(site.final_file(), body())?;
    let out = site.pull(&hub_entry())?;
    assert!(out.contains("toy: already there: "), "{out}");
    assert!(server.ranges().is_empty());
    assert!(!site.partial_folder().exists());
    Ok(())
}

#[test]
fn a_damaged_file_under_the_final_name_is_replaced() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    fs::create_dir_all(&site.puller.models_dir)?;
    fs::write(site.final_file(), vec![0; body().len()])?;
    site.pull(&hub_entry())?;
    assert_eq!(fs::read(site.final_file())?, body());
    Ok(())
}

#[test]
fn two_pulls_at_once_fetch_once() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let site = Site::new(&server.endpoint)?;
    let outs: Vec<_> = thread::scope(|scope| {
        let pulls: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| site.pull(&hub_entry())))
            .collect();
        pulls
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    for out in outs {
        out.ok().context("a pull panicked")??;
    }
    assert_eq!(server.ranges(), ["-"]);
    Ok(())
}

#[test]
fn a_local_folder_is_copied_from_and_left_alone() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let inner = site.folder.path().join("weights/inner");
    fs::create_dir_all(&inner)?;
    fs::write(inner.join("toy.gguf"), body())?;
    site.pull(&entry("file:weights", &sum(&body()), body().len()))?;
    assert_eq!(fs::read(site.final_file())?, body());
    let error = site.pull_error(&entry("file:weights", &"ab".repeat(32), body().len()))?;
    assert!(error.contains("wrong checksum"), "{error}");
    assert_eq!(
        fs::read(site.final_file())?,
        body(),
        "what stood there must stay when the new one is bad"
    );
    assert!(inner.join("toy.gguf").exists());
    Ok(())
}

#[test]
fn a_local_wheel_that_pip_finds_is_read_where_it_lies() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let path = site.folder.path().join("toy wheel.whl");
    wheel(&path)?;
    let url = format!("file://{}", path.display()).replace(' ', "%20");
    let report = report(&url, &sum(&fs::read(&path)?));
    let site = site.with_pip(&format!("cat <<'E'\n{report}\nE\n"))?;
    site.pull(&entry("pypi:toy==1.0", &sum(&body()), body().len()))?;
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(path.exists());
    assert!(!site.folder.path().join("escaped").exists());
    Ok(())
}

#[test]
fn a_wheel_is_resumed_checked_unpacked_and_deleted() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let path = site.folder.path().join("source.whl");
    wheel(&path)?;
    let archive = fs::read(&path)?;
    let half = archive.len() / 2 + 1;
    let server = Server::start(Manner {
        body: archive.clone(),
        cut_after: Some(half),
        ..Manner::default()
    })?;
    let report = report(&format!("{}/toy-1.0.whl", server.endpoint), &sum(&archive));
    let site = site.with_pip(&format!("cat <<'E'\n{report}\nE\n"))?;
    site.pull(&entry("pypi:toy==1.0", &sum(&body()), body().len()))?;
    assert_eq!(server.ranges(), ["-".to_owned(), format!("bytes={half}-")]);
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_whole_archive_left_by_a_killed_pull_is_used_as_it_is() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    fs::create_dir_all(site.partial_folder())?;
    wheel(&site.partial_folder().join("toy-1.0.whl"))?;
    let archive = fs::read(site.partial_folder().join("toy-1.0.whl"))?;
    let server = Server::start(Manner {
        body: archive.clone(),
        ..Manner::default()
    })?;
    let report = report(&format!("{}/toy-1.0.whl", server.endpoint), &sum(&archive));
    let site = site.with_pip(&format!("cat <<'E'\n{report}\nE\n"))?;
    site.pull(&entry("pypi:toy==1.0", &sum(&body()), body().len()))?;
    assert_eq!(server.ranges(), [format!("bytes={}-", archive.len())]);
    Ok(())
}

#[test]
fn an_archive_with_the_wrong_checksum_is_removed() -> Result<()> {
    let server = Server::start(Manner {
        body: body(),
        ..Manner::default()
    })?;
    let report = report(
        &format!("{}/toy-1.0.whl", server.endpoint),
        &"cd".repeat(32),
    );
    let site = Site::new("http://127.0.0.1:9")?.with_pip(&format!("cat <<'E'\n{report}\nE\n"))?;
    let error = site.pull_error(&entry("pypi:toy==1.0", &sum(&body()), body().len()))?;
    assert!(
        error.contains(&"cd".repeat(32)) && error.contains(&sum(&body())),
        "{error}"
    );
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn an_index_that_refuses_us_is_left_to_pip() -> Result<()> {
    let server = Server::start(Manner {
        status: Some("403 Forbidden"),
        ..Manner::default()
    })?;
    let site = Site::new("http://127.0.0.1:9")?;
    let path = site.folder.path().join("source.whl");
    wheel(&path)?;
    let report = report(
        &format!("{}/toy-1.0.whl", server.endpoint),
        &sum(&fs::read(&path)?),
    );
    let script = format!(
        "if [ \"$3\" = install ]; then cat <<'E'\n{report}\nE\nexit 0; fi\n\
         while [ \"$1\" != -d ]; do shift; done; cp {} \"$2/toy-1.0.whl\"\n",
        path.display()
    );
    let site = site.with_pip(&script)?;
    site.pull(&entry("pypi:toy==1.0", &sum(&body()), body().len()))?;
    assert_eq!(server.ranges(), ["-"]);
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_pip_that_is_missing_old_or_failing_is_named_in_one_line() -> Result<()> {
    let catalogue = entry("pypi:toy==1.0", &sum(&body()), body().len());
    let missing = Site::new("http://127.0.0.1:9")?.pull_error(&catalogue)?;
    assert!(missing.ends_with("install Python 3 with pip"), "{missing}");
    for (said, expected) in [
        ("python3: No module named pip", "sh has no pip: install it"),
        (
            "no such option: --report",
            "pip 22.2 or newer is needed: this one has no --report",
        ),
        (
            "ERROR: No matching distribution found for toy==1.0",
            "No matching distribution found for toy==1.0",
        ),
    ] {
        let site =
            Site::new("http://127.0.0.1:9")?.with_pip(&format!("echo '{said}' >&2; exit 2"))?;
        let error = site.pull_error(&catalogue)?;
        assert!(error.ends_with(expected), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    Ok(())
}

#[test]
fn the_listing_says_what_is_here() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let catalogue = Catalogue::parse(&hub_entry(), Path::new(""))?;
    let mut out = Vec::new();
    list(&catalogue, &site.puller.models_dir, &mut out)?;
    fs::create_dir_all(&site.puller.models_dir)?;
    fs::write(site.final_file(), body())?;
    list(&catalogue, &site.puller.models_dir, &mut out)?;
    let out = String::from_utf8(out)?;
    let rows: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("toy "))
        .collect();
    assert_eq!(
        rows,
        [
            "toy      1.20 MB  no       MIT           hf:someone/toy@v1",
            "toy      1.20 MB  yes      MIT           hf:someone/toy@v1",
        ]
    );
    Ok(())
}

#[test]
fn the_models_folder_is_the_configured_one_or_lies_in_the_home() -> Result<()> {
    let set = |names: &'static [(&str, &str)]| {
        models_dir_from(|name| {
            names
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        })
    };
    assert_eq!(
        set(&[("FOREBAY_MODELS__DIR", "/w"), ("HOME", "/h")])?,
        Path::new("/w")
    );
    assert_eq!(
        set(&[("FOREBAY_MODELS__DIR", ""), ("HOME", "/h")])?,
        Path::new("/h/.cache/forebay/models")
    );
    assert!(set(&[]).is_err());
    Ok(())
}
