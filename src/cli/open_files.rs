//! How many files this process may have open.

/// Every connection is one, and so is each of those to workers: many systems let a program have 1,024 and more only where
/// it asks, up to a bound of the administrator's.
///
/// It returns where that was done, or can't be.
pub(super) fn allow_many() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};

        let mut limit = getrlimit(Resource::Nofile);
        if limit.current == limit.maximum {
            return;
        }
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the number of open files stays as it is");
        }
    }
}
