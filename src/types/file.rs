use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{FileId, ProjectId, StoreError, UploadId};

/// What a file is for, in OpenAI's words: <https://platform.openai.com/docs/api-reference/files/create>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// For assistants and vector stores.
    Assistants,
    /// What an assistant has made.
    AssistantsOutput,
    /// The requests of a batch.
    Batch,
    /// The answers to a batch.
    BatchOutput,
    /// Examples for an evaluation.
    Evals,
    /// Examples to be trained on.
    FineTune,
    /// What a fine-tuning has to say.
    FineTuneResults,
    /// Whatever a user wants to be read.
    UserData,
    /// Pictures.
    Vision,
}

/// All of them, with their names.
const PURPOSES: [(Purpose, &str); 9] = [
    (Purpose::Assistants, "assistants"),
    (Purpose::AssistantsOutput, "assistants_output"),
    (Purpose::Batch, "batch"),
    (Purpose::BatchOutput, "batch_output"),
    (Purpose::Evals, "evals"),
    (Purpose::FineTune, "fine-tune"),
    (Purpose::FineTuneResults, "fine-tune-results"),
    (Purpose::UserData, "user_data"),
    (Purpose::Vision, "vision"),
];

impl Purpose {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        PURPOSES.into_iter().map(|(purpose, _)| purpose)
    }

    /// The name that clients and the store know it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let named = PURPOSES.iter().find(|(purpose, _)| *purpose == self);
        named.map_or("", |(_, name)| name)
    }

    /// Whether it is the server's, and no client's, to make such files.
    #[must_use]
    pub fn is_made_here(self) -> bool {
        matches!(
            self,
            Self::AssistantsOutput | Self::BatchOutput | Self::FineTuneResults
        )
    }
}

impl FromStr for Purpose {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let named = PURPOSES.iter().find(|(_, name)| *name == word);
        named.map(|(purpose, _)| *purpose).ok_or_else(|| {
            let names = PURPOSES
                .iter()
                .filter(|(purpose, _)| !purpose.is_made_here());
            let names: Vec<_> = names.map(|(_, name)| *name).collect();
            format!("purpose is none of {}", names.join(", "))
        })
    }
}

/// A file that is there whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id, for ever.
    pub id: FileId,
    /// Whose it is.
    pub project: ProjectId,
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Its size.
    pub bytes: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it goes by itself.
    pub expires: Option<Timestamp>,
}

/// How an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStatus {
    /// Parts may come.
    Pending,
    /// It became a file.
    Completed,
    /// Its owner gave it up.
    Cancelled,
    /// It was not completed in time.
    Expired,
}

impl UploadStatus {
    /// The name that clients and the store know it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl FromStr for UploadStatus {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [
            Self::Pending,
            Self::Completed,
            Self::Cancelled,
            Self::Expired,
        ]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| format!("{word:?} is no state of an upload"))
    }
}

/// A file that comes in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its id, for ever.
    pub id: UploadId,
    /// What it becomes: the size is what its owner says.
    pub file: StoredFile,
    /// The type of its content, in its owner's words.
    pub mime_type: String,
    /// How it stands.
    pub status: UploadStatus,
    /// Until when it may be completed.
    pub until: Timestamp,
    /// For how long the file is to be kept once it is there, in seconds.
    pub keep_s: Option<u32>,
}

/// Which of a project's files are wanted.
#[derive(Debug, Clone)]
pub struct FileQuery {
    /// Those for this alone.
    pub purpose: Option<Purpose>,
    /// Oldest first, instead of newest.
    pub ascending: bool,
    /// Begins behind the file with this id.
    pub after: Option<String>,
    /// So many at most.
    pub limit: u32,
}

/// Where files are kept. Their content is a row of pieces.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// Begins a file, or a part of an upload, of which nobody sees anything until it is finished. What is never finished goes
    /// by itself at the time that the file names.
    ///
    /// # Errors
    /// The store failed.
    async fn begin_file(
        &self,
        file: &StoredFile,
        part_of: Option<&UploadId>,
        until: Timestamp,
    ) -> Result<(), StoreError>;

    /// Adds a piece to a file that was begun; `index` counts them from 0.
    ///
    /// # Errors
    /// All files of the project together would be larger than `quota` bytes, or the store failed.
    async fn append(
        &self,
        file: &StoredFile,
        index: u32,
        piece: &[u8],
        quota: u64,
    ) -> Result<(), StoreError>;

    /// A file that was begun is given up.
    ///
    /// # Errors
    /// The store failed; it goes by itself later.
    async fn abandon_file(&self, id: &FileId) -> Result<(), StoreError>;

    /// A file that was begun is there, or a part is, under the name and for the purpose that it has now.
    ///
    /// # Errors
    /// It is gone, or the store failed.
    async fn finish_file(&self, file: &StoredFile) -> Result<(), StoreError>;

    /// The project's file with this id.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_file(&self, project: &ProjectId, id: &str) -> Result<StoredFile, StoreError>;

    /// A project's files.
    ///
    /// # Errors
    /// The store failed.
    async fn files(
        &self,
        project: &ProjectId,
        query: &FileQuery,
    ) -> Result<Vec<StoredFile>, StoreError>;

    /// Where a file's content is: its own id, or those of its parts in their order.
    ///
    /// # Errors
    /// The store failed.
    async fn contents(&self, id: &FileId) -> Result<Vec<FileId>, StoreError>;

    /// A piece of a content; none behind the last one.
    ///
    /// # Errors
    /// The store failed.
    async fn piece(&self, content: &FileId, index: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// Nobody sees the file any more; what it took is free after the next sweep.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn remove_file(&self, project: &ProjectId, id: &str) -> Result<(), StoreError>;

    /// A new upload.
    ///
    /// # Errors
    /// The store failed.
    async fn create_upload(&self, upload: &Upload) -> Result<(), StoreError>;

    /// The project's upload with this id.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_upload(&self, project: &ProjectId, id: &str) -> Result<Upload, StoreError>;

    /// The parts of an upload that are there.
    ///
    /// # Errors
    /// The store failed.
    async fn parts(&self, upload: &UploadId) -> Result<Vec<StoredFile>, StoreError>;

    /// An upload becomes its file, out of these parts. False where it is not pending any more.
    ///
    /// # Errors
    /// The store failed.
    async fn complete_upload(
        &self,
        upload: &UploadId,
        file: &StoredFile,
        parts: &[FileId],
    ) -> Result<bool, StoreError>;

    /// An upload is given up, with its parts. False where it is not pending any more.
    ///
    /// # Errors
    /// The store failed.
    async fn cancel_upload(&self, upload: &UploadId) -> Result<bool, StoreError>;

    /// Removes some of what nobody sees any more. False where there is nothing left of it.
    ///
    /// # Errors
    /// The store failed.
    async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError>;
}
