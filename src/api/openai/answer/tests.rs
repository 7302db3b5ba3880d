use std::sync::Arc;
use std::time::Instant;

use futures_util::stream;
use jiff::Timestamp;

use super::*;
use crate::metering::{Metering, Options};
use crate::store::Sqlite;
use crate::telemetry::Metrics;
use crate::types::{Caller, Class, Endpoint, Flown, Ledger, Price, RequestId};

struct Plain;

impl Shape for Plain {
    type Chunk = String;

    fn first(&self) -> Option<String> {
        None
    }
    fn delta(&self, delta: Delta) -> String {
        delta.text
    }
    fn finish(&self, _: u32, finish: Finish) -> String {
        finish.as_str().to_owned()
    }
    fn usage(&self, _: Usage) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_gone_after_a_while_and_pays_for_what_was_generated() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/t.db", folder.path().display());
    let store = Arc::new(Sqlite::open(&url).await.unwrap());
    let options = Options {
        max_open: 8,
        hold: Duration::from_secs(1),
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let (metering, writer) =
        Metering::start(Arc::clone(&store) as Arc<dyn Ledger>, metrics, &options);
    let flown = Flown {
        request: RequestId::mint(),
        attempt: 1,
        caller: Caller {
            project: "proj_a".into(),
            key: "key_a".into(),
        },
        end_user: None,
        model: "m".into(),
        revision: "r".into(),
        worker: "w".into(),
        endpoint: Endpoint::Chat,
        class: Class::Standard,
        price: Arc::new(Price::default()),
        started: Timestamp::now(),
    };
    let flight = metering.dispatch(metering.admit().unwrap(), flown);
    let progress = flight.progress();
    progress.start(7);
    let counting = Arc::clone(&progress);
    let endless = stream::repeat_with(move || {
        counting.advance();
        Ok(Event::Delta(Delta {
            text: "x".into(),
            ..Delta::default()
        }))
    });
    let meter = Meter::new(Box::pin(endless), flight, Instant::now());

    let (frames, reader) = mpsc::channel(4);
    let pumped = tokio::time::timeout(
        Duration::from_secs(10),
        pump(meter, Plain, frames, Duration::from_millis(50)),
    );
    pumped.await.unwrap();
    drop(reader);
    assert!(progress.is_closed());
    drop(metering);
    writer.await.unwrap();
    let rows = store.usage().await.unwrap();
    // Four frames that waited, and the one for which there was no room.
    assert_eq!(
        (
            rows[0].requests,
            rows[0].prompt_tokens,
            rows[0].completion_tokens
        ),
        (1, 7, 5)
    );
}
