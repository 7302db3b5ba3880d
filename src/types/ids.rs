use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        text_id!($(#[$doc])* $name, $prefix, "_");
    };
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $between:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new one, ordered by time (UUID version 7, RFC 9562).
            #[must_use]
            pub fn mint() -> Self {
                Self(format!(concat!($prefix, $between, "{}"), Uuid::now_v7().simple()).into())
            }

            /// The id as it is stored and shown.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A project: the tenant that requests are served to and billed to.
    ProjectId,
    "proj"
);
text_id!(
    /// An organisation: a customer, with its projects.
    OrganisationId,
    "org"
);
text_id!(
    /// One life of one process that serves: what it has in flight is in its name.
    ReplicaId,
    "replica"
);
text_id!(
    /// The public name of an API key. It is no secret and may be logged.
    KeyId,
    "key"
);

text_id!(
    /// A file of a project.
    FileId,
    "file",
    "-"
);
text_id!(
    /// A file that comes in parts.
    UploadId,
    "upload"
);
text_id!(
    /// A file of requests that are answered when there is room.
    BatchId,
    "batch"
);

/// Names one request, for ever. The gateway mints it, a client never chooses it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new one, ordered by time (UUID version 7, RFC 9562).
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }

    /// One that was minted before, as [`RequestId::simple`] gives it.
    #[must_use]
    pub fn parse(simple: &str) -> Option<Self> {
        Uuid::try_parse(simple).ok().map(Self)
    }

    /// The 32 hex digits, without the prefix.
    #[must_use]
    pub fn simple(&self) -> String {
        let mut digits = Uuid::encode_buffer();
        self.0.simple().encode_lower(&mut digits).to_owned()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{}", self.0.simple())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
