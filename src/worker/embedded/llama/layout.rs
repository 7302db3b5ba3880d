//! Weights in the layout that this CPU computes fastest.
//!
//! A file's blocks are made to be small; what is fast is another matter. Four-bit blocks re-laid as Q8_0 take
//! more memory and lose nothing that shows, and where the CPU has 8-bit dot products they are much faster. So
//! both are measured once on this machine, and the choice is kept beside the re-laid copy.
//!
//! Has `unsafe`, since llama-cpp-2 has no way to `llama_model_quantize`.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use super::model::{backend, check_file};
use crate::types::Layout;

/// File types (`general.file_type`) of less than 8 bits a weight: Q8_0 holds them without a loss that shows.
const SMALL_TYPES: [&str; 13] = [
    "2", "3", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18",
];
/// A copy that is larger has to be faster by this much.
const WORTH_IT: f64 = 1.1;
const LANES: i32 = 8;
const PROMPT: i32 = 16;
const STEPS: i32 = 6;
const REPEATS: usize = 7;

/// What is known of a file and this machine: a choice made for others is none.
struct Cache {
    copy: PathBuf,
    choice: PathBuf,
}

/// The file to be loaded for `weights`. Copies are kept in `folder`.
///
/// # Errors
/// The layout that was asked for can't be made. With `auto` that is a line of log, and the file as it is.
pub(super) fn choose(
    weights: &Path,
    layout: Layout,
    folder: &Path,
    threads: usize,
) -> Result<PathBuf, String> {
    check_file(weights)?;
    match layout {
        Layout::AsIs => Ok(weights.to_owned()),
        Layout::Q8_0 => {
            let cache = Cache::of(weights, folder, threads)?;
            relay(weights, &cache.copy, threads)?;
            Ok(cache.copy)
        }
        Layout::Auto => match faster(weights, folder, threads) {
            Ok(path) => Ok(path),
            Err(reason) => {
                tracing::warn!(reason, "the weights are taken as they are");
                Ok(weights.to_owned())
            }
        },
    }
}

fn faster(weights: &Path, folder: &Path, threads: usize) -> Result<PathBuf, String> {
    let cache = Cache::of(weights, folder, threads)?;
    let kept = std::fs::read_to_string(&cache.choice).ok();
    let ratio = match kept.and_then(|text| text.trim().parse::<f64>().ok()) {
        Some(ratio) if ratio < WORTH_IT || cache.copy.exists() => ratio,
        _ => {
            let ratio = measure(weights, &cache, threads)?;
            write_whole(&cache.choice, |path| {
                std::fs::write(path, format!("{ratio:.3}\n"))
            })?;
            ratio
        }
    };
    let path = if ratio >= WORTH_IT {
        cache.copy
    } else {
        weights.to_owned()
    };
    tracing::info!(q8_0_speed_ratio = ratio, weights = %path.display(), "layout of the weights");
    Ok(path)
}

/// How many times as fast the re-laid copy is; 0 where there is nothing to gain.
fn measure(weights: &Path, cache: &Cache, threads: usize) -> Result<f64, String> {
    let as_is = load(weights)?;
    let kind = as_is.meta_val_str("general.file_type").unwrap_or_default();
    if !SMALL_TYPES.contains(&kind.as_str()) {
        return Ok(0.0);
    }
    relay(weights, &cache.copy, threads)?;
    let copied = load(&cache.copy)?;
    let (mut before, mut after) = (context(&as_is, threads)?, context(&copied, threads)?);
    // The first run pays for pages that later ones find.
    run(&mut before)?;
    run(&mut after)?;
    let mut ratios = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        // One right after the other: what else the machine does slows both.
        ratios.push(time(&mut before)?.as_secs_f64() / time(&mut after)?.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[REPEATS / 2])
}

pub(super) fn load(path: &Path) -> Result<LlamaModel, String> {
    LlamaModel::load_from_file(backend()?, path, &LlamaModelParams::default())
        .map_err(|error| format!("{}: llama.cpp can't load it: {error}", path.display()))
}

/// For short prompts and some steps of eight sequences.
fn context(model: &LlamaModel, threads: usize) -> Result<LlamaContext<'_>, String> {
    let threads = i32::try_from(threads).map_err(|error| error.to_string())?;
    let cells = u32::try_from(LANES * 256).map_err(|error| error.to_string())?;
    let parameters = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_seq_max(LANES.unsigned_abs())
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_kv_unified(false)
        .with_no_perf(true);
    model
        .new_context(backend()?, parameters)
        .map_err(|error| format!("no context to measure in: {error}"))
}

fn time(context: &mut LlamaContext<'_>) -> Result<Duration, String> {
    let start = Instant::now();
    run(context)?;
    Ok(start.elapsed())
}

fn run(context: &mut LlamaContext<'_>) -> Result<(), String> {
    context.clear_kv_cache();
    let mut batch = LlamaBatch::new((LANES * PROMPT).unsigned_abs() as usize, 1);
    let ranges = std::iter::once(0..PROMPT).chain((PROMPT..PROMPT + STEPS).map(|at| at..at + 1));
    for positions in ranges {
        batch.clear();
        for lane in 0..LANES {
            for position in positions.clone() {
                let last = position + 1 == positions.end;
                batch
                    .add(
                        LlamaToken::new(100 + lane + position),
                        position,
                        &[lane],
                        last,
                    )
                    .map_err(|error| error.to_string())?;
            }
        }
        context
            .decode(&mut batch)
            .map_err(|error| format!("llama.cpp could not compute: {error}"))?;
    }
    context.synchronize();
    Ok(())
}

/// Makes the copy, unless it is there.
fn relay(weights: &Path, copy: &Path, threads: usize) -> Result<(), String> {
    if copy.exists() {
        return Ok(());
    }
    backend()?;
    tracing::info!(weights = %weights.display(), "re-laying the weights as Q8_0, once");
    write_whole(copy, |path| {
        quantize(weights, path, threads).map_err(std::io::Error::other)
    })
}

/// A file that is there is whole: it gets its name last.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let done = write(&unfinished).and_then(|()| std::fs::rename(&unfinished, path));
    if done.is_err() {
        // Nothing is left to be taken for a whole one; where it was never made there is nothing to remove.
        let _none = std::fs::remove_file(&unfinished);
    }
    done.map_err(failed)
}

#[expect(unsafe_code, reason = "llama-cpp-2 does not wrap llama_model_quantize")]
fn quantize(weights: &Path, into: &Path, threads: usize) -> Result<(), String> {
    let text =
        |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string());
    let (from, to) = (text(weights)?, text(into)?);
    // SAFETY: it has no preconditions, and gives a plain struct.
    let mut parameters = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    parameters.nthread = i32::try_from(threads).unwrap_or(0);
    parameters.ftype = llama_cpp_sys_2::LLAMA_FTYPE_MOSTLY_Q8_0;
    parameters.allow_requantize = true;
    // SAFETY: both paths are NUL-terminated and outlive the call, and so does the struct, whose pointers are
    // the defaults. The C++ side catches its own exceptions and returns a code.
    let code = unsafe {
        llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const parameters)
    };
    if code == 0 {
        Ok(())
    } else {
        Err(format!(
            "llama.cpp could not re-lay the weights (code {code})"
        ))
    }
}

impl Cache {
    fn of(weights: &Path, folder: &Path, threads: usize) -> Result<Self, String> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let version = version(weights)?;
        let stem = weights.file_stem().unwrap_or_default().to_string_lossy();
        let copy = folder.join(format!("{stem}.{version:016x}.Q8_0.gguf"));
        let gpu = (cfg!(feature = "cuda"), cfg!(feature = "metal"));
        let machine = digest(&(cpu(), threads, gpu));
        let choice = folder.join(format!("{stem}.{version:016x}.{machine:016x}.choice"));
        Ok(Self { copy, choice })
    }
}

/// Tells a file from others. One of the same name that changed is another one.
pub(super) fn version(weights: &Path) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", weights.display());
    let metadata = std::fs::metadata(weights).map_err(failed)?;
    let changed = metadata.modified().map_err(failed)?;
    let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(digest(&(weights, metadata.len(), changed)))
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What tells one CPU from another: its name and its vector units.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = |key: &str| {
        info.lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default()
            .to_owned()
    };
    first("model name") + &first("flags") + &first("Features")
}
