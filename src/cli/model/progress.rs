//! What a person sees while bytes come in: a bar on a terminal, two lines in a log.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str =
    "{msg} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

pub(super) struct Progress {
    bar: ProgressBar,
    label: String,
    started: Instant,
}

impl Progress {
    pub(super) fn start(label: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        if bar.is_hidden() {
            note(format_args!("{label}: downloading"));
        }
        Self {
            bar,
            label: label.to_owned(),
            started: Instant::now(),
        }
    }

    pub(super) fn set_total(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.bar.set_length(bytes);
        }
    }

    /// The bytes that lay on disk already count as progress, but not as speed.
    pub(super) fn resume_at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    pub(super) fn note(&self, line: impl Display) {
        self.bar
            .suspend(|| note(format_args!("{}: {line}", self.label)));
    }

    pub(super) fn finish(&self) {
        let hidden = self.bar.is_hidden();
        let bytes = self.bar.position();
        self.bar.finish_and_clear();
        if hidden {
            let elapsed = Duration::from_millis(
                self.started
                    .elapsed()
                    .as_millis()
                    .try_into()
                    .unwrap_or(u64::MAX),
            );
            note(format_args!(
                "{}: downloaded {} in {elapsed:?}",
                self.label,
                DecimalBytes(bytes)
            ));
        }
    }
}

/// One line on stderr. That nobody may be reading it is no reason to stop a download.
pub(super) fn note(line: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
