//! Charges on their way to the database, in files beside it.
//!
//! A transaction of SQLite takes longer than many an answer. With the durability `process` a charge is appended to a file in
//! the time of one write, its answer ends, and the database follows with many at once. What a dead process left here is
//! committed before anything else is recovered. A charge that stands already is left as it is, so one that is found
//! both here and there counts once.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::super::syncer::Syncer;
use crate::types::Charge;

/// Another file is begun behind this many bytes: the old one goes once all of it is in the database.
const LONGEST: u64 = 1 << 20;
/// Length and CRC-32 of what follows, each as four bytes with the lowest first.
const HEAD: usize = 8;
/// Bytes that most records take.
const USUAL: usize = 1024;

/// The files that this process appends to.
pub(super) struct Journal {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    syncer: Syncer,
}

#[derive(Default)]
struct State {
    /// What is appended to; none until there is something to append.
    current: Option<Segment>,
    /// Full, and not wholly in the database.
    full: HashMap<Uuid, Segment>,
    /// In which segment a charge is that isn't in the database.
    open: HashMap<Uuid, Uuid>,
    /// There is a file whose name may not have reached the disk.
    is_named: bool,
}

struct Segment {
    name: Uuid,
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    open: usize,
}

impl Journal {
    /// Nothing is written before the first charge. Needs a runtime.
    pub(super) fn new(folder: PathBuf) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (files, place) = (Arc::clone(&state), folder.clone());
        let syncer = Syncer::start(move || {
            let (files, place) = (Arc::clone(&files), place.clone());
            async move {
                let sync = tokio::task::spawn_blocking(move || sync(&files, &place));
                match sync.await {
                    Ok(done) => done.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        });
        Self {
            folder,
            state,
            syncer,
        }
    }

    /// Appends a charge: from now on it survives this process, and within 20 ms the machine.
    ///
    /// # Errors
    /// The disk. Then the charge may or may not be found here.
    pub(super) fn append(&self, charge: &Charge) -> io::Result<()> {
        let record = record(charge)?;
        let mut state = lock(&self.state);
        let done = state.append(&self.folder, charge.event_id, &record);
        if done.is_err() {
            // Behind half a record nothing would be found again.
            state.begin_anew();
        }
        drop(state);
        self.syncer.mark();
        done
    }

    /// These are in the database.
    pub(super) fn booked<'a>(&self, charges: impl Iterator<Item = &'a Charge>) {
        let mut state = lock(&self.state);
        let done: Vec<_> = charges
            .filter_map(|charge| state.booked(charge.event_id))
            .collect();
        drop(state);
        done.into_iter().for_each(Segment::remove);
    }

    /// The files of processes that have died.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(super) fn left_behind(&self) -> io::Result<Vec<PathBuf>> {
        let own = lock(&self.state).names();
        let mut found = match left_in(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            found => found?,
        };
        found.retain(|path| {
            !path
                .file_stem()
                .is_some_and(|name| own.iter().any(|own| name == own.as_str()))
        });
        Ok(found)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        lock(&self.state).begin_anew();
    }
}

impl State {
    fn append(&mut self, folder: &Path, event: Uuid, record: &[u8]) -> io::Result<()> {
        let segment = match &mut self.current {
            Some(segment) => segment,
            none => {
                self.is_named = true;
                none.insert(Segment::create(folder)?)
            }
        };
        (&*segment.file).write_all(record)?;
        segment.bytes += record.len() as u64;
        segment.open += 1;
        self.open.insert(event, segment.name);
        if segment.bytes >= LONGEST {
            self.begin_anew();
        }
        Ok(())
    }

    /// Gives the segment that is done with this.
    fn booked(&mut self, event: Uuid) -> Option<Segment> {
        let name = self.open.remove(&event)?;
        if let Some(segment) = self.current.as_mut().filter(|current| current.name == name) {
            segment.open -= 1;
        } else if let Some(segment) = self.full.get_mut(&name) {
            segment.open -= 1;
            if segment.open == 0 {
                return self.full.remove(&name);
            }
        }
        None
    }

    /// The next charge goes to another file.
    fn begin_anew(&mut self) {
        if let Some(segment) = self.current.take() {
            if segment.open == 0 {
                segment.remove();
            } else {
                self.full.insert(segment.name, segment);
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = Arc<File>> {
        let segments = self.current.iter().chain(self.full.values());
        segments.map(|segment| Arc::clone(&segment.file))
    }

    fn names(&self) -> Vec<String> {
        let segments = self.current.iter().chain(self.full.values());
        segments.map(|segment| segment.name.to_string()).collect()
    }
}

impl Segment {
    fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let name = Uuid::now_v7();
        let path = folder.join(format!("{name}.charges"));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self {
            name,
            path,
            file: Arc::new(file),
            bytes: 0,
            open: 0,
        })
    }

    /// All of it is in the database. What stays because it can't be removed is committed once more, which changes nothing.
    fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a file of booked charges could not be removed");
        }
    }
}

/// Brings the files to disk, and their names where one is new.
fn sync(state: &Mutex<State>, folder: &Path) -> io::Result<()> {
    let (files, is_named) = {
        let mut state = lock(state);
        (
            state.files().collect::<Vec<_>>(),
            std::mem::take(&mut state.is_named),
        )
    };
    let done = files.iter().try_for_each(|file| file.sync_data());
    let done = match done {
        Ok(()) if is_named => File::open(folder).and_then(|folder| folder.sync_all()),
        done => done,
    };
    lock(state).is_named |= is_named && done.is_err();
    done
}

/// A poisoned lock is taken all the same: the state is whole between any two of its statements that can panic.
fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record(charge: &Charge) -> io::Result<Vec<u8>> {
    let mut record = Vec::with_capacity(USUAL);
    record.resize(HEAD, 0);
    rmp_serde::encode::write_named(&mut record, charge).map_err(io::Error::other)?;
    let body = &record[HEAD..];
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let sum = crc32fast::hash(body);
    record[..4].copy_from_slice(&length.to_le_bytes());
    record[4..HEAD].copy_from_slice(&sum.to_le_bytes());
    Ok(record)
}

fn left_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "charges")
        {
            found.push(path);
        }
    }
    // By their names, and so by time.
    found.sort();
    Ok(found)
}

/// What is in a file.
pub(super) struct Found {
    /// Charges, up to the first that can't be read.
    pub(super) charges: Vec<Charge>,
    /// Bytes behind them. The power may have cut the last one.
    pub(super) unread: usize,
}

/// Reads a file.
///
/// # Errors
/// It can't be read.
pub(super) fn read(path: &Path) -> io::Result<Found> {
    let bytes = fs::read(path)?;
    let mut rest = &bytes[..];
    let mut charges = Vec::new();
    while let Some((charge, behind)) = next(rest) {
        charges.push(charge);
        rest = behind;
    }
    let unread = rest.len();
    charges.dedup_by_key(|charge| charge.event_id);
    Ok(Found { charges, unread })
}

/// Another name for a file that nobody reads again by itself.
///
/// # Errors
/// It can't be renamed.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("unread");
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn next(bytes: &[u8]) -> Option<(Charge, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    if crc32fast::hash(body) != sum {
        return None;
    }
    Some((rmp_serde::from_slice(body).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{charge, flown, usage};
    use crate::types::{Money, State as Standing};

    fn some(number: u32) -> Charge {
        charge(&flown(), usage(number, 1), Money(7), Standing::Settled)
    }

    fn prompts(path: &Path) -> Vec<u32> {
        let found = read(path).unwrap();
        found
            .charges
            .iter()
            .map(|charge| charge.usage.prompt_tokens)
            .collect()
    }

    #[tokio::test]
    async fn what_is_appended_is_read_up_to_where_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("charges"));
        for number in 1..4 {
            journal.append(&some(number)).unwrap();
        }
        // Its own are no dead process's.
        assert!(journal.left_behind().unwrap().is_empty());
        let path = left_in(&folder.path().join("charges")).unwrap().remove(0);
        assert_eq!(prompts(&path), [1, 2, 3]);
        let whole = fs::read(&path).unwrap();
        let second = HEAD + u32::from_le_bytes(whole[..4].try_into().unwrap()) as usize;
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let read = prompts(&path).len();
            assert_eq!(read, cut / second, "cut at {cut} of {}", whole.len());
            assert_eq!(super::read(&path).unwrap().unread, cut % second);
        }
        // A byte that turned makes the rest of no worth, and nothing else of it.
        let mut turned = whole.clone();
        turned[second + HEAD + 3] ^= 1;
        fs::write(&path, turned).unwrap();
        assert_eq!(prompts(&path), [1]);
    }

    #[tokio::test]
    async fn a_new_files_name_is_brought_to_disk_until_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let state = Mutex::new(State::default());
        let append = |record: &[u8]| {
            let done = lock(&state).append(folder.path(), Uuid::now_v7(), record);
            done.unwrap();
        };
        append(b"one");
        assert!(sync(&state, &folder.path().join("elsewhere")).is_err());
        assert!(lock(&state).is_named, "it is tried again");
        sync(&state, folder.path()).unwrap();
        append(b"two");
        assert!(!lock(&state).is_named, "the file is the same");
        lock(&state).begin_anew();
        append(b"three");
        assert!(lock(&state).is_named);
    }

    #[tokio::test]
    async fn a_file_goes_once_all_of_it_is_booked_and_no_earlier() {
        let folder = tempfile::tempdir().unwrap();
        let files = || left_in(folder.path()).unwrap().len();
        let journal = Journal::new(folder.path().to_owned());
        let mut charges = Vec::new();
        while files() < 3 {
            let charge = some(1);
            journal.append(&charge).unwrap();
            charges.push(charge);
        }
        let last = charges.pop().unwrap();
        let (first, rest) = charges.split_at(1);
        journal.booked(rest.iter());
        assert_eq!(
            files(),
            2,
            "the first holds one, and the last is appended to"
        );
        journal.booked(first.iter());
        assert_eq!(files(), 1);
        journal.booked(std::iter::once(&last));
        drop(journal);
        assert_eq!(files(), 0);
    }
}
