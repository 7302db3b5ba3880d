//! What can end the process is found out before the weights are loaded into it.

use std::num::NonZeroU32;
use std::path::Path;

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::layout::{load, version, write_whole};
use super::model::{backend, check_file};
use crate::worker::isolated::probe;

/// Tokens of the context in which one is computed.
const CELLS: u32 = 256;

/// Refuses what the machine's memory can't hold; mapped files count, since every step reads all of them.
///
/// # Errors
/// One line that says so.
pub(super) fn check_memory(weights: &Path) -> Result<(), String> {
    let bytes = std::fs::metadata(weights)
        .map_err(|error| format!("{}: {error}", weights.display()))?
        .len();
    match available_bytes() {
        Some(available) if bytes > available => Err(format!(
            "{}: it needs {} MB of memory, and {} MB are available",
            weights.display(),
            bytes / 1_000_000,
            available / 1_000_000
        )),
        _ => Ok(()),
    }
}

/// None where the system doesn't say.
fn available_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = available_of(&info)?;
    // A container's limit; "max" where there is none.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(machine.min(limit.unwrap_or(u64::MAX)))
}

fn available_of(info: &str) -> Option<u64> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Tries a file in a process of its own, once: a mark in `folder` remembers that this version of the file
/// loads in this version of the program.
///
/// # Errors
/// One line that says what is wrong with the file.
pub(super) fn try_once(weights: &Path, folder: &Path) -> Result<(), String> {
    check_file(weights)?;
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let stem = weights.file_stem().unwrap_or_default().to_string_lossy();
    let version = version(weights)?;
    let mark = folder.join(format!(
        "{stem}.{version:016x}.{}.loads",
        env!("CARGO_PKG_VERSION")
    ));
    if mark.exists() {
        return Ok(());
    }
    probe(weights)?;
    write_whole(&mark, |path| std::fs::write(path, ""))
}

/// Loads a file and computes one token.
///
/// # Errors
/// One line that says what is wrong with the file.
pub(in crate::worker) fn try_load(weights: &Path) -> Result<(), String> {
    check_file(weights)?;
    check_memory(weights)?;
    let failed = |error: &dyn std::fmt::Display| {
        format!("{}: llama.cpp can't run it: {error}", weights.display())
    };
    let model = load(weights)?;
    let parameters = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(CELLS))
        .with_n_batch(CELLS)
        .with_n_ubatch(CELLS)
        .with_no_perf(true);
    let mut context = model
        .new_context(backend()?, parameters)
        .map_err(|error| failed(&error))?;
    let mut batch = LlamaBatch::new(1, 1);
    batch
        .add(LlamaToken::new(0), 0, &[0], true)
        .map_err(|error| failed(&error))?;
    context.decode(&mut batch).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_of_its_memory_is_read_in_bytes() {
        let info = "MemTotal:        8008624 kB\nMemAvailable:    6123456 kB\n";
        assert_eq!(available_of(info), Some(6_123_456 * 1024));
        assert_eq!(available_of("MemTotal: 1 kB"), None);
    }

    #[test]
    fn a_file_beyond_all_memory_is_refused_in_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 42).unwrap();
        if available_bytes().is_some() {
            let refused = check_memory(file.path()).unwrap_err();
            assert!(refused.contains("MB are available"), "{refused}");
        }
        assert!(check_memory(Path::new("/proc/version")).is_ok());
    }
}
