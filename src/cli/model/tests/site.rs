//! A models folder with a server, a hub and a pip of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::catalogue::Catalogue;
use super::super::download::Client;
use super::super::pip::Pip;
use super::super::pull::{Hub, Puller};

/// A Range-serving HTTP/1.1 server that closes each connection after one answer.
#[derive(Clone, Default)]
pub(super) struct Manner {
    pub(super) body: Vec<u8>,
    /// Answers of 200 and 206 stop after so many bytes of the body.
    pub(super) cut_after: Option<usize>,
    pub(super) ignores_ranges: bool,
    /// Every answer is this, without the body.
    pub(super) status: Option<&'static str>,
    pub(super) redirects: bool,
}

pub(super) struct Server {
    pub(super) endpoint: String,
    pub(super) seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away early is part of what is tested.
                drop(answer(stream, &manner, &log));
            }
        });
        Ok(Self { endpoint, seen })
    }

    /// The `Range` values asked for, with `-` for none.
    pub(super) fn ranges(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|head| value(head, "range").unwrap_or("-").to_owned())
            .collect()
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

pub(super) fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        line.split_once(": ")
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

pub(super) fn answer(
    mut stream: TcpStream,
    manner: &Manner,
    log: &Mutex<Vec<String>>,
) -> Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "no whole request");
    }
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(head.clone());
    let total = manner.body.len();
    let range = value(&head, "range").filter(|_| !manner.ignores_ranges);
    let start: Option<usize> = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let (status, extra, body) = match (manner.status, start) {
        (Some(status), _) => (status, String::new(), &[][..]),
        _ if manner.redirects && !head.starts_with("GET /elsewhere") => {
            ("302 Found", "location: /elsewhere\r\n".to_owned(), &[][..])
        }
        (_, Some(start)) if start >= total => (
            "416 Range Not Satisfiable",
            format!("content-range: bytes */{total}\r\n"),
            &[][..],
        ),
        (_, Some(start)) => (
            "206 Partial Content",
            format!("content-range: bytes {start}-{}/{total}\r\n", total - 1),
            &manner.body[start..],
        ),
        (_, None) => ("200 OK", String::new(), manner.body.as_slice()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body[..manner.cut_after.unwrap_or(usize::MAX).min(body.len())])?;
    Ok(())
}

pub(super) fn body() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

pub(super) fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(super) fn entry(source: &str, sha256: &str, bytes: usize) -> String {
    format!(
        r#"[[model]]
name = "toy"
license = "MIT"
source = "{source}"
files = [{{ name = "toy.gguf", sha256 = "{sha256}", bytes = {bytes}, member = "inner/toy.gguf" }}]
"#
    )
}

pub(super) fn hub_entry() -> String {
    entry("hf:someone/toy@v1", &sum(&body()), body().len())
}

pub(super) struct Site {
    pub(super) folder: TempDir,
    pub(super) puller: Puller,
}

impl Site {
    pub(super) fn new(endpoint: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let puller = Puller {
            models_dir: folder.path().join("models"),
            catalogue_folder: folder.path().to_owned(),
            client: Client::new(Duration::from_millis(1)),
            pip: Pip::new("no-such-python", Vec::new()),
            hub: Hub {
                endpoint: endpoint.to_owned(),
                token: None,
            },
        };
        Ok(Self { folder, puller })
    }

    /// Puts a shell script in pip's place; it sees pip's arguments from `$3` on.
    pub(super) fn with_pip(mut self, script: &str) -> Result<Self> {
        let path = self.folder.path().join("pip.sh");
        fs::write(&path, script)?;
        self.puller.pip = Pip::new("sh", vec![path]);
        Ok(self)
    }

    pub(super) fn pull(&self, catalogue: &str) -> Result<String> {
        let catalogue = Catalogue::parse(catalogue, self.folder.path())?;
        let mut out = Vec::new();
        for model in catalogue.models() {
            self.puller.pull(model, &mut out)?;
        }
        Ok(String::from_utf8(out)?)
    }

    pub(super) fn pull_error(&self, catalogue: &str) -> Result<String> {
        failure(self.pull(catalogue))
    }

    pub(super) fn final_file(&self) -> PathBuf {
        self.puller.models_dir.join("toy.gguf")
    }

    pub(super) fn partial_file(&self) -> PathBuf {
        self.partial_folder()
            .join(format!("{}-toy.gguf", sum(&body())))
    }

    pub(super) fn partial_folder(&self) -> PathBuf {
        self.puller.models_dir.join(".partial")
    }

    pub(super) fn leave_partial(&self, bytes: &[u8]) -> Result<()> {
        fs::create_dir_all(self.partial_folder())?;
        Ok(fs::write(self.partial_file(), bytes)?)
    }

    pub(super) fn unfinished(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(self.partial_folder())?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        Ok(names.into_iter().filter(|name| name != ".lock").collect())
    }
}

pub(super) fn failure<T>(result: Result<T>) -> Result<String> {
    let error = result.err().context("this should have failed")?;
    Ok(format!("{error:#}"))
}

pub(super) fn wheel(path: &Path) -> Result<()> {
    wheel_of(path, "inner/toy.gguf", &body())
}

pub(super) fn wheel_of(path: &Path, member: &str, bytes: &[u8]) -> Result<()> {
    let mut zip = ZipWriter::new(File::create(path)?);
    zip.start_file(member, SimpleFileOptions::default())?;
    zip.write_all(bytes)?;
    zip.start_file("../escaped", SimpleFileOptions::default())?;
    zip.write_all(b"never extracted")?;
    zip.finish()?;
    Ok(())
}

pub(super) fn report(url: &str, sha256: &str) -> String {
    format!(
        r#"{{"version": "1", "install": [{{"download_info": {{"url": "{url}", "archive_info": {{"hashes": {{"sha256": "{sha256}"}}}}}}, "is_direct": false}}]}}"#
    )
}
