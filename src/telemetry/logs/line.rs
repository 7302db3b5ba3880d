//! An event as one line of JSON, in the names that tracing-subscriber's own format has. That one and a write for each line took a
//! tenth of what a request takes of the processor.

use std::fmt::{self, Debug, Write};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (now, level) = (Timestamp::now(), event.metadata().level());
        write!(to, r#"{{"timestamp":"{now:.6}","level":"{level}""#)?;
        let mut fields = Fields { to, done: Ok(()) };
        event.record(&mut fields);
        fields.done?;
        fields.to.write_str("}\n")
    }
}

struct Fields<'a> {
    to: Writer<'a>,
    done: fmt::Result,
}

impl Fields<'_> {
    fn field(&mut self, name: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.done.is_err() {
            return;
        }
        // Names are Rust's own: there is nothing in them to be escaped.
        let name = name.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let opened = write!(self.to, r#","{name}":"#);
        self.done = opened.and_then(|()| write(&mut self.to));
    }

    fn text(&mut self, name: &Field, text: fmt::Arguments<'_>) {
        self.field(name, |to| {
            to.write_char('"')?;
            Escaped(to).write_fmt(text)?;
            to.write_char('"')
        });
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |to| match value.is_finite() {
            true => write!(to, "{value}"),
            false => to.write_str("null"),
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |to| write!(to, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |to| write!(to, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |to| write!(to, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

/// What is written goes between the quotes of a JSON string (RFC 8259).
struct Escaped<'a, 'b>(&'a mut Writer<'b>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        let is_odd = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        while let Some(at) = text.bytes().position(is_odd) {
            let (plain, rest) = text.split_at(at);
            self.0.write_str(plain)?;
            let (odd, rest) = rest.split_at(1);
            match odd {
                "\n" => self.0.write_str(r"\n")?,
                "\r" => self.0.write_str(r"\r")?,
                "\t" => self.0.write_str(r"\t")?,
                "\"" | "\\" => write!(self.0, "\\{odd}")?,
                other => other
                    .bytes()
                    .try_for_each(|byte| write!(self.0, "\\u{byte:04x}"))?,
            }
            text = rest;
        }
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing_subscriber::fmt;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What our format and tracing-subscriber's make of the same events.
    fn both(log: impl Fn()) -> (Vec<Value>, Vec<Value>) {
        let (own, other) = (Lines::default(), Lines::default());
        let writer = |lines: &Lines| {
            let lines = lines.clone();
            move || lines.clone()
        };
        let ours = fmt::layer().event_format(Json).with_writer(writer(&own));
        let theirs = fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer(&other));
        let subscriber = tracing_subscriber::registry().with(ours).with(theirs);
        tracing::subscriber::with_default(subscriber, log);
        let read = |lines: &Lines| {
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            text.lines()
                .map(|line| {
                    let mut value: Value = serde_json::from_str(line).unwrap();
                    let time = value["timestamp"].take();
                    let time: Timestamp = time.as_str().unwrap().parse().unwrap();
                    assert!(Timestamp::now().duration_since(time).as_secs() < 60);
                    value
                })
                .collect()
        };
        (read(&own), read(&other))
    }

    #[test]
    fn an_event_is_one_line_that_says_what_the_usual_format_says() {
        let odd: String = (0..0x180).filter_map(char::from_u32).collect();
        let (own, other) = both(|| {
            let r#type = "t";
            tracing::info!(%odd, ?odd, text = odd, r#type, "{odd} \u{1F30A}");
            tracing::warn!(i = -1_i64, u = u64::MAX, f = 0.5, b = true, "numbers");
            tracing::error!(error = %io::Error::other("it \"broke\""), nan = f64::NAN);
        });
        assert_eq!(own.len(), 3);
        assert_eq!(own, other);
        assert_eq!(own[2]["error"], "it \"broke\"");
    }
}
