//! What is kept for a while: the content of files, in pieces, and answers for those who ask again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

use crate::types::{FileId, FileStore, Store, StoreError, StoredFile, UploadId};

/// The size of all pieces but the last.
const PIECE: usize = 1 << 20;
/// Pieces that this process writes at once.
static WRITERS: Semaphore = Semaphore::const_new(2);
/// What is begun and never finished goes after so long.
const ABANDONED: SignedDuration = SignedDuration::from_hours(24);

/// A file that is being written. Dropped unfinished, it is given up; where the process dies it goes by itself a day later.
pub struct FileWriter {
    store: Arc<dyn Store>,
    file: StoredFile,
    quota: u64,
    rest: BytesMut,
    pieces: u32,
    done: bool,
}

impl FileWriter {
    /// Begins a file, or a part of an upload, of a project whose files may take `quota` bytes together.
    ///
    /// # Errors
    /// The store failed.
    pub async fn begin(
        store: Arc<dyn Store>,
        mut file: StoredFile,
        part_of: Option<&UploadId>,
        quota: u64,
    ) -> Result<Self, StoreError> {
        let until = Timestamp::now() + ABANDONED;
        store.begin_file(&file, part_of, until).await?;
        file.bytes = 0;
        Ok(Self {
            store,
            file,
            quota,
            rest: BytesMut::new(),
            pieces: 0,
            done: false,
        })
    }

    /// What is known of it, which may change until it is finished.
    pub fn file_mut(&mut self) -> &mut StoredFile {
        &mut self.file
    }

    /// Its size until now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// Adds to it.
    ///
    /// # Errors
    /// The project's files would take more than they may, or the store failed.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), StoreError> {
        self.file.bytes += content.len() as u64;
        self.rest.extend_from_slice(content);
        while self.rest.len() >= PIECE {
            let piece = self.rest.split_to(PIECE);
            self.put(&piece).await?;
        }
        Ok(())
    }

    /// Everything is written, for somebody else to show. Who doesn't loses it a day later.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub async fn hand_over(mut self) -> Result<FileId, StoreError> {
        self.flush().await?;
        self.done = true;
        Ok(self.file.id.clone())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let piece = self.rest.split();
        self.put(&piece).await
    }

    /// Everything is written: the file is there.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub async fn finish(mut self) -> Result<StoredFile, StoreError> {
        self.flush().await?;
        self.store.finish_file(&self.file).await?;
        self.done = true;
        Ok(self.file.clone())
    }

    async fn put(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let index = self.pieces;
        // The ledger's commits go by the same way: few files at a time, so that none waits for long.
        let _turn = WRITERS.acquire().await;
        self.store
            .append(&self.file, index, piece, self.quota)
            .await?;
        self.pieces += 1;
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (store, id) = (Arc::clone(&self.store), self.file.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = store.abandon_file(&id).await {
                    tracing::debug!(%error, "a file could not be given up");
                }
            });
        }
    }
}

/// A file that is being read.
pub struct FileReader {
    store: Arc<dyn Store>,
    /// What is left of it, the next at the end.
    contents: Vec<FileId>,
    piece: u32,
}

impl FileReader {
    /// Begins with its first piece.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open(store: Arc<dyn Store>, file: &FileId) -> Result<Self, StoreError> {
        let mut contents = store.contents(file).await?;
        contents.reverse();
        Ok(Self {
            store,
            contents,
            piece: 0,
        })
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// The store failed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some(content) = self.contents.last() {
            if let Some(piece) = self.store.piece(content, self.piece).await? {
                self.piece += 1;
                return Ok(Some(piece.into()));
            }
            self.contents.pop();
            self.piece = 0;
        }
        Ok(None)
    }
}

/// A file, line by line.
pub struct Lines {
    reader: FileReader,
    rest: BytesMut,
    /// Bytes of `rest` in which there is no end of a line.
    searched: usize,
    longest: usize,
}

/// A line, without its end; `None` for one that is longer than lines may be.
pub type Line = Option<Bytes>;

impl Lines {
    /// Lines may have so many bytes.
    #[must_use]
    pub fn of(reader: FileReader, longest: usize) -> Self {
        Self {
            reader,
            rest: BytesMut::new(),
            searched: 0,
            longest,
        }
    }

    /// The next line; none at the end. Nothing is read behind one that is too long.
    ///
    /// # Errors
    /// The store failed.
    pub async fn next(&mut self) -> Result<Option<Line>, StoreError> {
        loop {
            let unsearched = self.rest.get(self.searched..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', unsearched) {
                let line = self.rest.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(self.line(line.freeze())));
            }
            self.searched = self.rest.len();
            if self.searched > self.longest {
                return Ok(Some(None));
            }
            match self.reader.next().await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    let line = self.rest.split().freeze();
                    return Ok(Some(self.line(line)));
                }
            }
        }
    }

    fn line(&self, mut line: Bytes) -> Line {
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.truncate(line.len() - 1);
            }
        }
        (line.len() <= self.longest).then_some(line)
    }
}

/// Removes what nobody sees any more, as it goes, until it is told to stop.
pub async fn sweep(store: Arc<dyn Store>, stop: tokio_util::sync::CancellationToken) {
    let mut more = Ok(false);
    loop {
        let pause = match more {
            Ok(true) => BETWEEN_PIECES,
            Ok(false) | Err(_) => BETWEEN_LOOKS,
        };
        let slept = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        if slept.is_none() {
            return;
        }
        more = FileStore::sweep(&*store, Timestamp::now()).await;
        if matches!(more, Ok(false)) {
            let forgotten = store.forget_answers(Timestamp::now() - ABANDONED).await;
            more = forgotten.map(|()| false);
        }
        if let Err(error) = &more {
            tracing::warn!(%error, "old files could not be removed");
        }
    }
}

/// The ledger writes in between.
const BETWEEN_PIECES: std::time::Duration = std::time::Duration::from_millis(20);
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_secs(10);
