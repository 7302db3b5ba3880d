//! Lines gather for a moment before they are written, so that there is not a write for each.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// A line waits that long for others, at most. What tells of trouble waits for none.
const MOMENT: Duration = Duration::from_millis(50);
/// So many bytes wait for no others.
const ENOUGH: usize = 1 << 16;
/// No more is written in one piece: a pipe takes so much without another process's lines in between (POSIX's `PIPE_BUF` on Linux).
const UNBROKEN: usize = 4096;

/// Where lines gather. Dropped, it writes what is there, and what comes later is written as it comes.
pub(super) struct Gather {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: Vec<u8>,
    to: Box<dyn Write + Send>,
    /// A thread looks after what waits.
    is_tended: bool,
    is_over: bool,
}

impl Gather {
    /// On their way to this.
    pub(super) fn new(to: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                lines: Vec::new(),
                to: Box::new(to),
                is_tended: true,
                is_over: false,
            }),
            changed: Condvar::new(),
        });
        let tended = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".into());
        if thread.spawn(move || tended.tend()).is_err() {
            shared.lock().is_tended = false;
        }
        Self { shared }
    }

    /// Another handle, to write by.
    pub(super) fn writer(&self) -> Lines {
        Lines(Arc::clone(&self.shared))
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.write();
        // Whoever still logs writes at once.
        state.is_tended = false;
        state.is_over = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tend(&self) {
        let mut state = self.lock();
        loop {
            let waited = self
                .changed
                .wait_while(state, |state| !state.is_over && state.lines.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .changed
                .wait_timeout_while(state, MOMENT, |state| !state.is_over);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.write();
            if state.is_over {
                return;
            }
        }
    }
}

impl State {
    /// There is nobody to tell that it can't be written.
    fn write(&mut self) {
        let mut rest = &self.lines[..];
        while !rest.is_empty() {
            let most = &rest[..rest.len().min(UNBROKEN)];
            let whole = memchr::memrchr(b'\n', most).or_else(|| memchr::memchr(b'\n', rest));
            let (lines, behind) = rest.split_at(whole.map_or(rest.len(), |end| end + 1));
            let _lost = self.to.write_all(lines);
            rest = behind;
        }
        self.lines.clear();
    }
}

/// A handle on a [`Gather`].
pub(super) struct Lines(Arc<Shared>);

/// Takes one line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    is_urgent: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            shared: &self.0,
            is_urgent: true,
        }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line<'a> {
        Line {
            shared: &self.0,
            is_urgent: *of.level() <= Level::WARN,
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        if self.is_urgent || !state.is_tended || state.lines.len() >= ENOUGH {
            state.write();
        } else if first {
            drop(state);
            self.shared.changed.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.lock().write();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use tracing_subscriber::fmt;
    use tracing_subscriber::prelude::*;

    use super::*;

    /// Tells of each write.
    struct Told(SyncSender<String>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.0.send(text).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce(&Receiver<String>)) -> Receiver<String> {
        let (tell, told) = sync_channel(4096);
        let gather = Gather::new(Told(tell));
        let layer = fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .with_writer(gather.writer());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || log(&told));
        drop(gather);
        told
    }

    #[test]
    fn lines_are_written_together_and_in_their_order() {
        let told = logged(|_| (0..1000).for_each(|number| tracing::info!("{number}")));
        let writes: Vec<_> = told.iter().collect();
        let is_whole = |write: &String| write.len() <= UNBROKEN && write.ends_with('\n');
        assert!(writes.iter().all(is_whole));
        let all: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(writes.concat(), all);
        assert!(writes.len() < 100, "{} writes", writes.len());
    }

    #[test]
    fn a_line_is_written_a_moment_later_though_none_follows() {
        logged(|told| {
            for line in ["one", "two"] {
                tracing::info!("{line}");
                assert_eq!(told.recv().unwrap(), format!("{line}\n"));
            }
        });
    }

    #[test]
    fn what_tells_of_trouble_is_written_at_once_behind_what_waits() {
        logged(|told| {
            tracing::info!("before");
            tracing::warn!("trouble");
            let so_far: String = told.try_iter().collect();
            assert_eq!(so_far, "before\ntrouble\n");
        });
    }
}
