//! What one sequence of 8,000 tokens costs 31 short ones that run beside it.

use std::{
    io::Write,
    iter,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::{Args, Pair, Results, SETTLE, servers::Servers, streams::Streams};
use crate::{
    figures::{Spread, table},
    prompt::{Rng, story},
    target::Target,
};

const SHORT_STREAMS: u32 = 31;
const SHORT_WORDS: usize = 20;
const SHORT_TOKENS: u32 = 64;
/// With a prompt of 7,000 nearly the whole context; more than it gets until the measurement ends.
const LONG_TOKENS: u32 = 1000;
/// Apart from the numbers at once that give throughput's prompts.
const PROMPTS: u64 = 1002;

/// One repetition on one server.
#[derive(Serialize)]
pub(super) struct Seen {
    /// Of the 31 together.
    alone_tokens_per_second: f64,
    beside_tokens_per_second: f64,
    kept: f64,
    long_tokens_per_second: f64,
    long_first_text_s: f64,
}

pub(super) async fn round(args: &Args, servers: &Servers, round: u64, results: &mut Results) {
    let load = async |target: &_| measure(target, args, round).await;
    let seen = servers.in_turn(round, load).await;
    results.long_stream.push(seen, &mut results.failures);
}

async fn measure(target: &Target, args: &Args, round: u64) -> Result<Seen> {
    let window = Duration::from_secs(args.window_s);
    let mut rng = Rng::new(args.seed, round, PROMPTS);
    let alone = if round.is_multiple_of(2) {
        Some(measure_alone(target, &mut rng, window).await?)
    } else {
        None
    };
    let asked = Instant::now();
    let long = target.chat(&story(&mut rng, args.long_words as usize), LONG_TOKENS);
    let mut long = Streams::start(target, [iter::once(long)]);
    long.each_has(1).await?;
    let long_first_text_s = asked.elapsed().as_secs_f64();
    let beside = measure_short(target, &mut rng, window).await?;
    long.still_run().await?;
    let long_pieces = long.count_between(beside.from, beside.to);
    drop(long);
    let alone = match alone {
        Some(alone) => alone,
        None => measure_alone(target, &mut rng, window).await?,
    };
    Ok(Seen {
        alone_tokens_per_second: alone.rate(),
        beside_tokens_per_second: beside.rate(),
        kept: beside.rate() / alone.rate(),
        long_tokens_per_second: long_pieces as f64 / window.as_secs_f64(),
        long_first_text_s,
    })
}

/// What the short streams got, from one moment to another.
struct Window {
    from: Instant,
    to: Instant,
    pieces: usize,
}

impl Window {
    /// A piece of text is a token, but for the few that give no text of their own.
    fn rate(&self) -> f64 {
        self.pieces as f64 / (self.to - self.from).as_secs_f64()
    }
}

async fn measure_alone(target: &Target, rng: &mut Rng, window: Duration) -> Result<Window> {
    sleep(SETTLE).await;
    let measured = measure_short(target, rng, window).await;
    sleep(SETTLE).await;
    measured
}

async fn measure_short(target: &Target, rng: &mut Rng, window: Duration) -> Result<Window> {
    let readers = (0..SHORT_STREAMS).map(|reader| renewed(target.clone(), rng.next(), reader));
    let mut streams = Streams::start(target, readers);
    // By then each has ended an answer or is in its middle: they come and go at different times.
    streams.each_has(SHORT_TOKENS as usize / 4).await?;
    let from = Instant::now();
    sleep(window).await;
    let to = Instant::now();
    streams.still_run().await?;
    Ok(Window {
        from,
        to,
        pieces: streams.count_between(from, to),
    })
}

/// The requests of one short stream, without end. The first answers have different lengths, so that not
/// all 31 prompts are read at once ever after.
fn renewed(target: Target, seed: u64, reader: u32) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut rng = Rng::new(seed, 0, PROMPTS);
    let first = 2 + reader * (SHORT_TOKENS - 2) / SHORT_STREAMS;
    iter::once(first)
        .chain(iter::repeat(SHORT_TOKENS))
        .map(move |tokens| target.chat(&story(&mut rng, SHORT_WORDS), tokens))
}

#[derive(Serialize)]
pub(super) struct Figures {
    long_words: u32,
    sides: Pair<Side>,
    repetitions: Pair<Vec<Seen>>,
}

#[derive(Serialize)]
struct Side {
    alone_tokens_per_second: Spread,
    beside_tokens_per_second: Spread,
    /// The rate beside the long one over the rate alone, repetition by repetition.
    kept: Spread,
    long_tokens_per_second: Spread,
    long_first_text_s: Spread,
}

impl Figures {
    pub(super) fn new(long_words: u32, repetitions: Pair<Vec<Seen>>) -> Self {
        Self {
            long_words,
            sides: repetitions.as_ref().map(|seen| Side::new(seen)),
            repetitions,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> Result<()> {
        if self
            .repetitions
            .named()
            .iter()
            .all(|(_, seen)| seen.is_empty())
        {
            return Ok(());
        }
        writeln!(
            out,
            "Long stream: {SHORT_STREAMS} short answers beside one with a prompt of {} words (aim: at least 0.7 kept)\n",
            self.long_words
        )?;
        let head = [
            "",
            "short ones alone, tok/s",
            "beside the long one, tok/s",
            "kept (min to max)",
            "long one, tok/s",
            "its first token, s",
        ];
        let rows = self.sides.named().map(|(name, side)| side.cells(name));
        table(out, &head, &rows)
    }
}

impl Side {
    fn new(seen: &[Seen]) -> Self {
        let spread = |figure: fn(&Seen) -> f64| Spread::of(seen.iter().map(figure));
        Self {
            alone_tokens_per_second: spread(|seen| seen.alone_tokens_per_second),
            beside_tokens_per_second: spread(|seen| seen.beside_tokens_per_second),
            kept: spread(|seen| seen.kept),
            long_tokens_per_second: spread(|seen| seen.long_tokens_per_second),
            long_first_text_s: spread(|seen| seen.long_first_text_s),
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.1}", self.alone_tokens_per_second.median),
            format!("{:.1}", self.beside_tokens_per_second.median),
            self.kept.cell(2),
            format!("{:.1}", self.long_tokens_per_second.median),
            format!("{:.1}", self.long_first_text_s.median),
        ]
    }
}
