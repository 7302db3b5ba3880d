//! Puts files in place: what stands under a final name is whole, has its pinned sum and is on disk.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::catalogue::{Pinned, Sum};
use super::progress::note;
use super::source::encode_segment;

const BUFFER_BYTES: usize = 256 * 1024;

/// The folder of unfinished files, held by one pull at a time. It lies inside the models folder, so
/// that a rename out of it never crosses file systems.
pub(super) struct Workshop {
    folder: PathBuf,
    /// The lock ends with the handle, also when the process is killed.
    _lock: File,
}

impl Workshop {
    pub(super) fn enter(models_dir: &Path) -> Result<Self> {
        let folder = models_dir.join(".partial");
        fs::create_dir_all(&folder)
            .with_context(|| format!("can't create {}", folder.display()))?;
        let path = folder.join(".lock");
        let lock =
            File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                note("another pull is at work in the models folder; waiting for it");
                lock.lock()?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context("can't lock the models folder");
            }
        }
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same bytes give the same name in each call, which is what lets a later one continue them.
    pub(super) fn partial(&self, pinned: Pinned<'_>) -> PathBuf {
        self.folder.join(format!(
            "{}-{}",
            pinned.sha256.as_str(),
            encode_segment(pinned.name)
        ))
    }

    /// Copies `reader` to a temporary file and checks it against the pinned length and sum.
    pub(super) fn stage(&self, reader: impl Read, pinned: Pinned<'_>) -> Result<Staged> {
        let staged = Staged {
            temporary: self.partial(pinned),
            keep: false,
        };
        let mut output = File::create(&staged.temporary)?;
        // One byte more than pinned shows that it is too long, and a hostile archive can't fill the disk.
        let sum = copy_hashed(
            &mut reader.take(pinned.bytes.saturating_add(1)),
            &mut output,
        )
        .with_context(|| format!("can't copy {}", pinned.member))?;
        compare(pinned.member, pinned.sha256, &sum)?;
        output.sync_all()?;
        Ok(staged)
    }

    /// Takes over what was downloaded to its `partial` name, after checking it.
    pub(super) fn adopt(&self, pinned: Pinned<'_>) -> Result<Staged> {
        let mut staged = Staged {
            temporary: self.partial(pinned),
            keep: false,
        };
        compare(pinned.member, pinned.sha256, &sum_of(&staged.temporary)?)?;
        File::open(&staged.temporary)?.sync_all()?;
        staged.keep = true;
        Ok(staged)
    }

    /// What an earlier call left of these bytes, if it is all of them.
    pub(super) fn left(&self, pinned: Pinned<'_>) -> Result<Option<Staged>> {
        let temporary = self.partial(pinned);
        let whole = is_in_place(&temporary, pinned)?;
        Ok(whole.then_some(Staged {
            temporary,
            keep: true,
        }))
    }

    /// Joins checked parts, in their order, and checks the whole. Until then the parts stay, whatever happens.
    pub(super) fn join(&self, parts: Vec<Staged>, pinned: Pinned<'_>) -> Result<Staged> {
        let mut joined: Box<dyn Read> = Box::new(io::empty());
        for part in &parts {
            joined = Box::new(joined.chain(File::open(&part.temporary)?));
        }
        let mut whole = self.stage(joined, pinned)?;
        whole.keep = true;
        for part in parts {
            fs::remove_file(&part.temporary)?;
        }
        Ok(whole)
    }
}

/// A checked file under a temporary name; dropped without `publish`, it is removed unless it is kept.
pub(super) struct Staged {
    temporary: PathBuf,
    /// A whole download outlives the failure of the model's next file: a later pull takes it up again.
    keep: bool,
}

impl Staged {
    /// A later pull takes it up again, however this one ends.
    pub(super) fn kept(mut self) -> Self {
        self.keep = true;
        self
    }

    pub(super) fn publish(self, destination: &Path) -> Result<()> {
        let folder = destination
            .parent()
            .context("a model file lies in a folder")?;
        fs::create_dir_all(folder)?;
        fs::rename(&self.temporary, destination)
            .with_context(|| format!("can't put {} in place", destination.display()))?;
        // Without this, the new name itself might not outlive a power cut.
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keep {
            // After `publish` there is nothing left to remove, and that is no error.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

pub(super) fn is_in_place(path: &Path, pinned: Pinned<'_>) -> Result<bool> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(error).with_context(|| format!("can't look at {}", path.display()));
        }
    };
    // The length first: it spares reading what can't be the file.
    Ok(metadata.is_file()
        && metadata.len() == pinned.bytes
        && sum_of(path)? == pinned.sha256.as_str())
}

pub(super) fn sum_of(path: &Path) -> Result<String> {
    File::open(path)
        .and_then(|mut file| copy_hashed(&mut file, &mut io::sink()))
        .with_context(|| format!("can't read {}", path.display()))
}

fn compare(name: &str, pinned: &Sum, actual: &str) -> Result<()> {
    if actual != pinned.as_str() {
        bail!(
            "{name} has the wrong checksum and was removed: sha256 {actual}, expected {}",
            pinned.as_str()
        );
    }
    Ok(())
}

fn copy_hashed(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hasher.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        writer.write_all(&buffer[..count])?;
    }
}
