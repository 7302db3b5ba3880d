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
use crate::types::{Class, Endpoint, Generate};

/// Asks it beside the request itself, which doesn't wait for it.
pub(super) fn ask(api: &Arc<Api>, asked: &Asked, peeked: &mut Peeked, endpoint: Endpoint) {
    let Some(shadow) = peeked.shadow.take() else {
        return;
    };
    let (api, request) = (Arc::clone(api), asked.request);
    let (access, model) = (asked.shared_access(), peeked.model.clone());
    tokio::spawn(async move {
        let choice = shadow.choice.clone();
        // What can't be asked is said to whoever asks for the answer.
        if let Ok(body) = read(&api, &access, shadow, &model, endpoint).await {
            api.gateway.shadow(&access, &choice, request, body).await;
        }
    });
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
