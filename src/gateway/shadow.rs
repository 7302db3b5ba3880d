//! Another revision is asked what a request asks, and its answer is thrown away: so it is seen at work before anybody gets
//! it.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Gateway, prefix};
use crate::router::Choice;
use crate::scheduler::Need;
use crate::tenancy::Access;
use crate::types::{Class, Event, Generate, Job, Kind, RequestId};

/// So many run at once; more are skipped, or they would pile up where there is no room for them.
const AT_ONCE: usize = 4;
/// Tokens of an answer that says no limit, as they are reckoned with.
const USUAL_TOKENS: u64 = 256;

/// Room for shadows.
pub(super) struct Shadows(Arc<Semaphore>);

impl Default for Shadows {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Gateway {
    /// Room for one more, which holds as long as this does.
    pub fn room_for_shadow(&self, choice: &Choice) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.verticals.shadows.0)
            .try_acquire_owned()
            .ok();
        if room.is_none() {
            self.metrics.verticals.shadow(choice.model(), "skipped", 0);
        }
        room
    }

    /// Asks a revision. It stands in no ledger and counts against no limit, and waits in the batch class in the tenant's own turn.
    pub async fn shadow(
        &self,
        access: &Access,
        choice: &Choice,
        request: RequestId,
        body: Generate,
    ) {
        let told = |outcome: &str, tokens| {
            self.metrics
                .verticals
                .shadow(choice.model(), outcome, tokens);
        };
        match self.ask_shadow(access, choice, request, body).await {
            Ok(tokens) => told("answered", tokens),
            Err(_) => told("failed", 0),
        }
    }

    async fn ask_shadow(
        &self,
        access: &Access,
        choice: &Choice,
        request: RequestId,
        body: Generate,
    ) -> Result<u64, Error> {
        let plan = choice.plan(Kind::Generate, Class::Batch)?;
        let answer_tokens = body.max_tokens.map_or(USUAL_TOKENS, u64::from);
        let answers = body.answers();
        let need = Need {
            tenant: access.caller.project.clone(),
            class: Class::Batch,
            weight: access.weight(),
            answers,
            prompt_tokens: 0,
            tokens: answer_tokens.saturating_mul(answers.into()),
            prefix: Vec::new(),
            avoid: Vec::new(),
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let job = Job {
            preface: prefix::preface(&body, &plan),
            request: Arc::new(body),
            model: Arc::clone(&plan.sent),
            asked: Arc::clone(&plan.model),
            id: format!("shadow-{}", request.simple()).into(),
            resumable: false,
            resume: None,
            tenant: access.caller.project.clone(),
            class: Class::Batch,
            adapter: plan.adapter.clone(),
        };
        let mut events = slot.generate(job, Arc::default()).await?;
        while let Some(event) = events.next().await {
            if let Event::End { usage } = event? {
                return Ok(u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens));
            }
        }
        Ok(0)
    }
}
