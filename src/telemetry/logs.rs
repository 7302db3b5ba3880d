mod gather;
mod line;

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;

use gather::Gather;

/// What llama.cpp says of a step that it was told to break off, as if it were a failure.
const BROKEN_OFF: [&str; 4] = [
    "graph_compute_async failed with error 1",
    "compute status: 1",
    "failed to decode, ret = 2",
    "removing memory module entries",
];

/// Everything but what was asked for.
struct Surprising;

impl<S> Filter<S> for Surprising {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if !event.metadata().target().starts_with("llama-cpp") {
            return true;
        }
        let mut words = Words(false);
        event.record(&mut words);
        !words.0
    }
}

/// Whether a message is one of [`BROKEN_OFF`].
struct Words(bool);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let text = format!("{value:?}");
            self.0 |= BROKEN_OFF.iter().any(|words| text.contains(words));
        }
    }
}

/// Dropped at the process's end, so that its last lines are written.
pub struct Logs {
    _gather: Option<Gather>,
}

/// Logs as JSON lines on stderr, or as text where `FOREBAY_LOG_FORMAT=text` or stderr is a terminal.
///
/// `RUST_LOG` chooses what is logged; the default is `info`. The HTTP libraries' own lines stay at `warn`:
/// what they log at lower levels may hold bodies.
///
/// Lines of JSON gather for up to 50 ms, unless they tell of trouble.
#[must_use]
pub fn init_logs() -> Logs {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let filter = ["hyper=warn", "h2=warn", "sqlx=warn", "llama-cpp-2=warn"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let text = match std::env::var("FOREBAY_LOG_FORMAT").as_deref() {
        Ok("text") => true,
        Ok("json") => false,
        _ => std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    let gather = (!text).then(|| Gather::new(std::io::stderr()));
    let layer = match &gather {
        None => fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .boxed(),
        Some(gather) => fmt::layer()
            .event_format(line::Json)
            .with_writer(gather.writer())
            .boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(layer.with_filter(Surprising))
        .try_init();
    // A second start in one process, as tests do it, keeps the first one's settings.
    drop(started);
    // A panic's message may quote what it was about, which may be a prompt: the place is enough.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(
            place,
            thread = thread.name().unwrap_or_default(),
            "panicked"
        );
    }));
    Logs { _gather: gather }
}
