use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::*;
use crate::gateway::Answer;
use crate::metering::Meter;
use crate::metering::{Flight, Metering, Options};
use crate::telemetry::Metrics;
use crate::types::{
    Caller, Class, Endpoint, Failure, Flown, Ledger, Membership, Paying, Price, RequestId, Store,
    UsageQuery,
};

/// Says what happens, in words.
struct Plain;

impl Shape for Plain {
    type Chunk = String;

    fn first(&self, choice: u32) -> Option<String> {
        Some(format!("{choice} begins"))
    }
    fn delta(&mut self, delta: Delta) -> String {
        format!("{}: {}", delta.choice, delta.text)
    }
    fn finish(&self, choice: u32, finish: Finish) -> String {
        format!("{choice} ends: {}", finish.as_str())
    }
    fn usage(&self, usage: Usage) -> Option<String> {
        Some(format!("{} tokens", usage.total_tokens()))
    }
}

/// A ledger, and an attempt that is booked in it.
struct Desk {
    store: Arc<dyn Store>,
    metering: Metering,
    writer: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn open() -> (Self, Flight) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/t.db", folder.path().display());
        let store = crate::store::open(&url).await.unwrap();
        let options = Options {
            max_open: 8,
            hold: Duration::from_secs(1),
            lease: None,
        };
        let membership = Arc::new(Membership::new("a".into()));
        store.join(&membership.now()).await.unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let ledger = Arc::clone(&store) as Arc<dyn Ledger>;
        let (metering, writer) = Metering::start(ledger, membership, metrics, &options);
        let flown = Flown {
            request: RequestId::mint(),
            attempt: 1,
            caller: Caller {
                organisation: "org_a".into(),
                project: "proj_a".into(),
                key: "key_a".into(),
            },
            end_user: None,
            model: "m".into(),
            revision: "r".into(),
            route: None,
            worker: "w".into(),
            endpoint: Endpoint::Chat,
            class: Class::Standard,
            price: Arc::new(Price::default()),
            started: Timestamp::now(),
        };
        let flight = metering.dispatch(metering.admit().unwrap(), flown, Paying::default(), None);
        let desk = Self {
            store,
            metering,
            writer,
            _folder: folder,
        };
        (desk, flight)
    }
}

fn meter(
    flight: Flight,
    events: impl Stream<Item = Result<Event, Failure>> + Send + 'static,
) -> Source {
    Answer::from(Meter::new(Box::pin(events), flight, Instant::now())).into()
}

fn delta(choice: u32, text: &str) -> Event {
    Event::Delta(Delta {
        choice,
        text: text.into(),
        ..Delta::default()
    })
}

fn finish(choice: u32, finish: Finish) -> Event {
    Event::Finish { choice, finish }
}

fn end() -> Event {
    let usage = Usage {
        prompt_tokens: 3,
        completion_tokens: 4,
        ..Usage::default()
    };
    Event::End { usage }
}

/// Part of a call; it opens one where a name is given.
fn call(choice: u32, index: u32, name: Option<&str>, arguments: &str) -> Event {
    Event::Delta(Delta {
        choice,
        calls: vec![CallDelta {
            index,
            opens: name.map(|name| (format!("call_{index}"), name.to_owned())),
            arguments: arguments.into(),
        }],
        ..Delta::default()
    })
}

async fn gathered(answers: u32, script: Vec<Event>) -> Result<Whole, ApiError> {
    let (desk, flight) = Desk::open().await;
    let mut meter = meter(flight, stream::iter(script.into_iter().map(Ok)));
    let gathered = gather(&mut meter, answers).await;
    drop(desk);
    gathered.map(|gathering| match gathering {
        Gathering::Own(whole) => whole,
        Gathering::Relayed(_) => panic!("nobody relays here"),
    })
}

async fn frames(script: Vec<Result<Event, Failure>>) -> Vec<String> {
    let (desk, flight) = Desk::open().await;
    let response = streamed(meter(flight, stream::iter(script)), Plain);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(desk);
    let text = String::from_utf8(body.to_vec()).unwrap();
    let data = |frame: &str| {
        let data = frame.strip_prefix("data: ").unwrap();
        serde_json::from_str(data).unwrap_or_else(|_| data.to_owned())
    };
    text.trim_end().split("\n\n").map(data).collect()
}

#[tokio::test]
async fn each_answer_gets_what_is_its_own() {
    let script = vec![
        delta(1, "b"),
        delta(0, "a"),
        delta(1, "B"),
        finish(1, Finish::Length),
        delta(0, "A"),
        finish(0, Finish::Stop),
        end(),
    ];
    let whole = gathered(2, script).await.unwrap();
    let told: Vec<_> = whole
        .choices
        .iter()
        .map(|choice| (choice.text.as_str(), choice.finish))
        .collect();
    assert_eq!(told, [("aA", Finish::Stop), ("bB", Finish::Length)]);
    assert_eq!(whole.usage.total_tokens(), 7);
}

#[tokio::test]
async fn calls_are_put_together_from_their_parts() {
    let script = vec![
        call(0, 0, Some("clock"), ""),
        call(0, 0, None, "{\"zone\":"),
        call(0, 1, Some("weather"), "{}"),
        call(0, 0, None, "1}"),
        finish(0, Finish::ToolCalls),
        end(),
    ];
    let whole = gathered(1, script).await.unwrap();
    let calls: Vec<_> = whole.choices[0]
        .calls
        .iter()
        .map(|call| {
            (
                call.id.as_str(),
                call.name.as_str(),
                call.arguments.as_str(),
            )
        })
        .collect();
    assert_eq!(
        calls,
        [
            ("call_0", "clock", "{\"zone\":1}"),
            ("call_1", "weather", "{}")
        ]
    );
}

#[tokio::test]
async fn events_that_make_no_sense_are_a_fault_and_not_half_an_answer() {
    for script in [
        vec![delta(1, "whose?"), finish(0, Finish::Stop), end()],
        vec![finish(7, Finish::Stop), end()],
        vec![delta(0, "no finish"), end()],
        vec![call(0, 0, None, "{}"), finish(0, Finish::ToolCalls), end()],
        vec![
            call(0, 3, Some("f"), "{}"),
            finish(0, Finish::ToolCalls),
            end(),
        ],
    ] {
        let error = gathered(1, script).await.err().unwrap();
        assert_eq!(error.status, http::StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[tokio::test]
async fn answers_stream_interleaved_and_their_ends_wait_for_the_charge() {
    let script = vec![
        delta(1, "b"),
        delta(0, "a"),
        finish(1, Finish::Stop),
        delta(0, "A"),
        finish(2, Finish::Length),
        finish(0, Finish::Length),
        end(),
    ];
    let expected = [
        "1 begins",
        "1: b",
        "0 begins",
        "0: a",
        "0: A",
        "2 begins",
        "1 ends: stop",
        "2 ends: length",
        "0 ends: length",
        "7 tokens",
        "[DONE]",
    ];
    assert_eq!(frames(script.into_iter().map(Ok).collect()).await, expected);
}

#[tokio::test]
async fn a_stream_that_breaks_shows_no_end_of_any_answer() {
    let script = vec![
        Ok(delta(0, "a")),
        Ok(finish(0, Finish::Stop)),
        Err(Failure::Broken("it fell over".into())),
    ];
    let frames = frames(script).await;
    assert_eq!(frames[..2], ["0 begins", "0: a"]);
    assert_eq!(frames.len(), 3);
    assert!(frames[2].contains("worker_failed"), "{}", frames[2]);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_gone_after_a_while_and_pays_for_what_was_generated() {
    let (desk, flight) = Desk::open().await;
    let progress = flight.progress();
    progress.start(7);
    let counting = Arc::clone(&progress);
    let endless = stream::repeat_with(move || {
        counting.advance();
        Ok(delta(0, "x"))
    });

    let (frames, reader) = mpsc::channel(4);
    let pumped = tokio::time::timeout(
        Duration::from_secs(10),
        pump(
            meter(flight, endless),
            Plain,
            frames,
            Duration::from_millis(50),
        ),
    );
    pumped.await.unwrap();
    drop(reader);
    assert!(progress.is_closed());
    drop(desk.metering);
    desk.writer.await.unwrap();
    let rows = desk.store.usage(&UsageQuery::default()).await.unwrap();
    // Four pieces waited, and for one there was no room.
    assert_eq!(
        (
            rows[0].requests,
            rows[0].prompt_tokens,
            rows[0].completion_tokens
        ),
        (1, 7, 5)
    );
}
