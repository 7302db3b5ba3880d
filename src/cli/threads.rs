//! How the engine's threads wait for one another.

use std::convert::Infallible;
use std::io::{self, ErrorKind};

/// How often a thread looks whether the others have come before it sleeps, by libgomp's name.
const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "2000");
/// Whoever sets one of these decides for himself.
const SET: [&str; 2] = [SPINS.0, "OMP_WAIT_POLICY"];

/// Sees to it that a thread of llama.cpp which waits for others soon sleeps. Left alone it keeps its core for some 10 ms:
/// from whatever else is there to be done after each answer, and, where more is at work than there are cores, from the
/// very threads that it waits for.
///
/// libgomp reads its settings before `main`, so this starts the same program again in the same process. It returns where
/// that was done, or can't be.
pub(super) fn sleep_soon() {
    let is_set = SET.iter().any(|name| std::env::var_os(name).is_some());
    if cfg!(target_os = "linux") && !is_set {
        let Err(error) = again();
        tracing::warn!(%error, "the engine's threads will spin while they wait");
    }
}

#[cfg(unix)]
fn again() -> io::Result<Infallible> {
    use std::os::unix::process::CommandExt as _;

    let binary = std::env::current_exe()?;
    // Somebody may have called the dynamic loader by name, with this program as its argument.
    let is_loader = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("ld");
    if binary.file_name().is_none_or(is_loader) {
        return Err(ErrorKind::Unsupported.into());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "forebay".into());
    let mut command = std::process::Command::new(binary);
    let command = command.arg0(name).args(arguments).env(SPINS.0, SPINS.1);
    Err(command.exec())
}

#[cfg(not(unix))]
fn again() -> io::Result<Infallible> {
    Err(ErrorKind::Unsupported.into())
}
