//! A request once more, for a revision that answers nobody.

use std::sync::Arc;

use super::chat;
use super::completions;
use super::profile::told;
use super::relay::{Peeked, Shadow, peek};
use crate::api::Api;
use crate::api::asked::Asked;
use crate::api::error::ApiError;
use crate::guard::Found;
use crate::tenancy::Access;
use crate::types::{Class, Endpoint, Generate, RequestId};

/// What is to be asked of a revision that answers nobody, once the request itself is answered.
pub(super) struct Pending {
    shadow: Shadow,
    access: Arc<Access>,
    request: RequestId,
    model: String,
}

impl Pending {
    /// `None` where there is none.
    pub(super) fn of(asked: &Asked, peeked: &mut Peeked) -> Option<Self> {
        Some(Self {
            shadow: peeked.shadow.take()?,
            access: asked.shared_access(),
            request: asked.request,
            model: peeked.model.clone(),
        })
    }

    /// Asks it beside the request, which doesn't wait for it.
    pub(super) fn ask(self, api: &Arc<Api>, endpoint: Endpoint) {
        let Some(room) = api.gateway.room_for_shadow(&self.shadow.choice) else {
            return;
        };
        let api = Arc::clone(api);
        tokio::spawn(async move {
            let choice = self.shadow.choice.clone();
            // What can't be asked is said to whoever asks for the answer.
            if let Ok(body) = read(&api, &self.access, self.shadow, &self.model, endpoint).await {
                api.gateway
                    .shadow(&self.access, &choice, self.request, body)
                    .await;
            }
            drop(room);
        });
    }
}

async fn read(
    api: &Api,
    access: &Access,
    shadow: Shadow,
    model: &str,
    endpoint: Endpoint,
) -> Result<Generate, ApiError> {
    let peeked = peek(shadow.body, Some(model))?;
    let relayed = shadow.choice.speech().relayed;
    let turns = (peeked, shadow.choice);
    let caller = (access, Class::Batch);
    let peeked = told(api, caller, turns, endpoint, &mut Found::default()).await?;
    let mut body = match endpoint {
        Endpoint::Chat => chat::decode(&peeked)?,
        Endpoint::Completions | Endpoint::Embeddings => completions::decode(&peeked)?,
    };
    if relayed {
        body.relay = Some(peeked.relay(endpoint)?);
    }
    Ok(body)
}
