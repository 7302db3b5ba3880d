//! A PostgreSQL of the tests' own, made by `initdb` in a temporary folder. It never touches the machine's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Serves until it is told to stop, or until whoever started it is gone, however they went: then its end of the
/// pipe closes.
const SERVE: &str = r#"
"$1/postgres" -D "$2" -p "$3" -h 127.0.0.1 -k "$2" -c max_connections=200 -c log_min_messages=fatal </dev/null &
server=$!
tries=0
until "$1/pg_isready" -q -h 127.0.0.1 -p "$3"; do
    tries=$((tries + 1))
    kill -0 $server 2>/dev/null && [ $tries -lt 600 ] || { echo "it did not come up"; exit 1; }
    sleep 0.05
done
echo ready
cat >/dev/null
kill -s "$4" $server
wait $server
[ -z "$5" ] || rm -rf "$2"
"#;

/// A server that is this test's alone.
pub(crate) struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Gone with the process: its folder is removed by whoever outlives us.
    shared: bool,
    running: Option<(Child, ChildStdin)>,
}

impl Cluster {
    /// Makes one and starts it. One that is shared lives as long as the process: nobody drops it.
    pub(crate) fn start(shared: bool) -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new()
            .prefix("forebay-postgres-")
            .tempdir()
            .unwrap()
            .keep();
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let port = loadtest::ports::free().unwrap();
        run(as_postgres(&programs.join("initdb"))
            .args([
                "--username=forebay",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&folder));
        let mut cluster = Self {
            programs,
            folder,
            port,
            shared,
            running: None,
        };
        cluster.serve();
        cluster
    }

    /// Starts it again, with what it had.
    pub(crate) fn serve(&mut self) {
        let mut child = as_postgres(Path::new("sh"))
            .args(["-c", SERVE, "sh"])
            .arg(&self.programs)
            .arg(&self.folder)
            .arg(self.port.to_string())
            .args(["INT", if self.shared { "remove" } else { "" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready", "the test's PostgreSQL did not start");
        self.running = Some((child, stdin));
    }

    /// Stops it; whoever is connected is cut off.
    pub(crate) fn stop(&mut self) {
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            child.wait().unwrap();
        }
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self, name: &str) -> String {
        run(as_postgres(&self.programs.join("createdb"))
            .args(["-h", "127.0.0.1", "-U", "forebay", "-p"])
            .arg(self.port.to_string())
            .arg(name));
        format!("postgres://forebay@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program)
        // The folder that the tests run in may be closed to others.
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Where initdb is: on PATH, or where Debian has it.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders
        .into_iter()
        // It may be a link to where the other programs are.
        .filter_map(|folder| Some(folder.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .find(|folder| folder.join("pg_isready").exists())
        .unwrap_or_else(|| panic!("these tests need PostgreSQL's server programs (initdb): `make setup-postgres` installs them"))
}
