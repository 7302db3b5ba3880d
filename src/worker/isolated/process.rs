//! A child process of this binary, tied to its parent by a socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The hidden subcommand of this binary that is a worker's process.
const SUBCOMMAND: &str = "worker";
/// A process that was asked to end, and is loading a model meanwhile, is killed after so long.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a child sees of the environment: what finds files and libraries, sets up logs and the engines'
/// threads. Whatever else may be a secret.
const KEPT: [&str; 9] = [
    "FOREBAY_LOG_FORMAT",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "TZ",
];
const KEPT_BEGINNINGS: [&str; 9] = [
    "CUDA_", "GGML_", "GOMP_", "HIP_", "KMP_", "LC_", "NVIDIA_", "OMP_", "ROCR_",
];

/// Starts a child. The thread that calls this has to outlive it: Linux takes the end of that thread for the
/// death of the parent.
///
/// # Errors
/// The system gives no process or no socket.
pub(super) fn spawn(stderr: Stdio) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let environment = std::env::vars_os().filter(|(name, _)| is_kept(name));
    let child = Command::new(this_binary()?)
        .arg0("forebay")
        .arg(SUBCOMMAND)
        .env_clear()
        // On a failed assertion ggml would start a debugger, which holds the dying process for seconds.
        .env("GGML_NO_BACKTRACE", "1")
        .envs(environment)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(stderr)
        // Ctrl-C goes to the terminal's whole group; when this one leaves is for its parent to say.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    ours.set_nonblocking(true)?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// The file that this process runs, also where an update has put another one under its name: both sides have to
/// speak the same protocol.
#[cfg(target_os = "linux")]
fn this_binary() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

#[cfg(not(target_os = "linux"))]
fn this_binary() -> io::Result<PathBuf> {
    std::env::current_exe()
}

fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    KEPT.contains(&&*name)
        || KEPT_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

/// Waits for a child whose socket is closed, and kills it where that takes long.
///
/// # Errors
/// The system can't wait.
pub(super) async fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    match tokio::time::timeout(LAST_WORDS, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// How a process ended, as the end of a sentence.
pub(super) fn describe(status: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;

    let status = match status {
        Ok(status) => status,
        Err(error) => return format!("ended, nobody knows how: {error}"),
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}{}", name_of(signal)),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        4 => " (illegal instruction)",
        6 => " (it aborted)",
        7 => " (bus error)",
        8 => " (arithmetic fault)",
        9 => " (killed, as the system does when memory is short)",
        11 => " (bad memory access)",
        _ => "",
    }
}

/// The parent's end of the socket, in the child.
///
/// # Errors
/// Standard input is no socket: this process was started by hand.
pub(super) fn socket_to_parent() -> io::Result<UnixStream> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.peer_addr()?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Makes this process one that dies with its parent, goes first where memory is short, and leaves only when
/// its socket closes.
///
/// # Errors
/// The system refuses.
pub(super) fn tie_to_parent() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};

        set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
            tracing::debug!(%error, "this process stays as likely to be killed as its parent");
        }
    }
    // A service manager sends SIGTERM to every process of the service, and requests are to be answered to
    // their end. A signal that was once listened to is never fatal again.
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        drop(signal(kind)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_with_the_parent() {
        for secret in [
            "FOREBAY_TENANCY__BOOTSTRAP_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "OPENAI_API_KEY",
        ] {
            assert!(!is_kept(OsStr::new(secret)), "{secret}");
        }
        for needed in ["HOME", "PATH", "RUST_LOG", "OMP_NUM_THREADS"] {
            assert!(is_kept(OsStr::new(needed)), "{needed}");
        }
    }
}
