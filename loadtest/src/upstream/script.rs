use std::time::Duration;

/// How an upstream answers.
#[derive(Debug, Clone)]
pub struct Script {
    /// The pieces of its answer's text: one is one token, and one frame of a stream.
    pub pieces: Vec<String>,
    /// When they come.
    pub pace: Pace,
    /// What goes wrong.
    pub fault: Fault,
    /// Whether it tells what was used, and how.
    pub usage: UsageKind,
    /// A stream is written in two parts, the first of so many bytes.
    pub split_at: Option<usize>,
    /// What `/health` says.
    pub healthy: bool,
    /// What `/metrics` says of requests that wait inside it.
    pub waiting: u32,
    /// Requests that it takes at once; it answers 503 to more.
    pub most: Option<usize>,
}

/// When the pieces of an answer come.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// At once.
    Instant,
    /// The first after a while, then one after another.
    Steady {
        /// Until the first.
        first: Duration,
        /// Between two.
        gap: Duration,
    },
    /// As continuous batching does it: so many at once run, others wait in their order.
    Batching {
        /// How many run at once.
        slots: usize,
        /// Tokens of prompts that are read in a second, of one request at a time.
        prefill_per_s: f64,
        /// Tokens of an answer in a second.
        decode_per_s: f64,
    },
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status, and OpenAI's envelope.
    Refuse(u16),
    /// The connection is closed without a word.
    Reset,
    /// Nothing ever comes after so many pieces; not even a head after none.
    Hang(usize),
    /// Bytes come one by one, and slowly.
    Trickle,
    /// The connection breaks after so many pieces.
    Cut(usize),
    /// After so many pieces comes what is no JSON.
    Garbage(usize),
    /// After so many pieces comes a frame that tells of an error.
    Error(usize),
}

/// What an upstream tells of what was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageKind {
    /// As OpenAI: at the end of a stream, where it was asked for.
    Asked,
    /// In each frame as well, where that was asked for.
    Continuous,
    /// Never.
    Never,
    /// Numbers that can't be.
    Wrong,
}

impl Default for Script {
    fn default() -> Self {
        Self::words(8)
    }
}

impl Script {
    /// So many words, at once and without a fault.
    #[must_use]
    pub fn words(count: usize) -> Self {
        Self {
            pieces: (0..count).map(|number| format!("w{number} ")).collect(),
            pace: Pace::Instant,
            fault: Fault::None,
            usage: UsageKind::Asked,
            split_at: None,
            healthy: true,
            waiting: 0,
            most: None,
        }
    }

    /// The same, at this pace.
    #[must_use]
    pub fn at(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// The same, with this fault.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// The whole text of its answer.
    #[must_use]
    pub fn text(&self) -> String {
        self.pieces.concat()
    }
}
