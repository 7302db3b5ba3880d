//! A stream that goes on with another worker when its own fails.

use std::sync::Arc;

use super::tries::Tries;
use super::{Ask, Gateway};
use crate::metering::{Error, Meter};
use crate::types::{Endpoint, Failure, Generate, Outcome, Plan, Resume};

/// What would not be the same text: calls, other forms than text, each token's own numbers, and what goes on already.
const CAN_NOT: [&str; 8] = [
    "continue_final_message",
    "echo",
    "tools",
    "functions",
    "response_format",
    "logprobs",
    "prompt_logprobs",
    "audio",
];

/// Whether another worker could go on with the answer to this.
pub(super) fn can(ask: &Ask<Arc<Generate>>, plan: &Plan) -> bool {
    let fits = |relay: &crate::types::Relay| {
        let plain = |name| {
            relay
                .get(name)
                .is_none_or(|value| matches!(value, b"null" | b"false"))
        };
        relay.endpoint == Endpoint::Chat && relay.streams && CAN_NOT.into_iter().all(plain)
    };
    plan.resume && ask.body.answers() == 1 && ask.body.relay.as_ref().is_some_and(fits)
}

/// What it takes to go on elsewhere.
pub(super) struct Resuming {
    gateway: Arc<Gateway>,
    ask: Ask<Arc<Generate>>,
    tries: Tries,
    /// The answer's text so far.
    text: String,
}

impl Resuming {
    pub(super) fn new(gateway: &Arc<Gateway>, ask: Ask<Arc<Generate>>, tries: Tries) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            ask,
            tries,
            text: String::new(),
        }
    }

    /// The answer's text goes on with this.
    pub(super) fn remember(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Another worker takes the text so far as the begin of its answer. What the one that failed had counted is carried over,
    /// and paid once.
    ///
    /// # Errors
    /// Nobody can.
    pub(super) async fn go_on(&mut self, meter: Meter, failure: Failure) -> Result<Meter, Error> {
        let mut flight = meter.into_flight();
        let worker = Arc::clone(&flight.flown().worker);
        if !self.tries.may_resume(&self.gateway.scheduler, &worker) {
            return Err(flight.fail(failure).await);
        }
        tracing::warn!(
            worker = &*worker,
            error = failure.told(),
            "a stream goes on elsewhere"
        );
        let begun = Resume {
            text: self.text.clone(),
            tokens: flight.progress().read().completion_tokens,
        };
        self.tries
            .resume(flight.give_up(Some(Outcome::Failed)), begun);
        let gateway = Arc::clone(&self.gateway);
        match gateway.try_generate(&self.ask, &mut self.tries).await {
            Ok((_, meter)) => Ok(meter),
            Err(failed) => Err(failed.absorb().await.unwrap_or(Error::Failed(failure))),
        }
    }
}
