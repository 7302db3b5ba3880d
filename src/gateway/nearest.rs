//! The worked examples that are nearest to a question, by the vectors of an embedding model of the site: what a model is
//! shown should look like what it is asked (arXiv 2101.06804).

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::OnceCell;

use super::{Error, Gateway};
use crate::metering;
use crate::scheduler::Need;
use crate::tenancy::Access;
use crate::types::{Class, Embed, EmbedJob, Input, Kind, Nearest, Profile};

/// As much of a text is looked at: MiniLM reads 256 tokens, and a character may be one.
const MOST_CHARS: usize = 200;

/// The vectors of verticals' examples, made when they are first needed.
#[derive(Default)]
pub struct Vectors(DashMap<String, Arc<OnceCell<Vec<Vec<f32>>>>>);

impl Gateway {
    /// Which of a vertical's examples are shown before a question, the nearest last.
    ///
    /// # Errors
    /// The embedding model has no room, or failed.
    pub async fn nearest(
        &self,
        access: &Access,
        model: &str,
        profile: &Profile,
        question: &str,
    ) -> Result<Vec<usize>, Error> {
        let Some(nearest) = &profile.nearest else {
            return Ok((0..profile.examples.len()).collect());
        };
        // What the examples mean depends on nothing but the config, under whatever name it is asked.
        let name = self.router.own_name(model).to_owned();
        let cell = Arc::clone(self.vectors.0.entry(name).or_default().value());
        let known = cell.get_or_try_init(|| {
            let inputs = profile.examples.iter().map(|example| example.input.clone());
            self.embedded(access, nearest, inputs.collect())
        });
        let known = known.await?;
        let asked = self
            .embedded(access, nearest, vec![question.to_owned()])
            .await?;
        let asked = asked.first().map_or(&[][..], Vec::as_slice);
        let mut order: Vec<_> = (0..known.len()).collect();
        // A tie is broken by the order of the file.
        order.sort_by(|one, other| dot(&known[*other], asked).total_cmp(&dot(&known[*one], asked)));
        order.truncate(nearest.count);
        order.reverse();
        Ok(order)
    }

    /// Vectors for the gateway's own use. They stand in no ledger: the vertical's price is what is paid. They wait in
    /// the tenant's own turn, so that nobody else waits for them.
    async fn embedded(
        &self,
        access: &Access,
        nearest: &Nearest,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let plan = self
            .router
            .resolve(&nearest.embedding, Kind::Embed, Class::default())?;
        let tokens = texts.iter().map(|text| text.len() as u64 / 3 + 2).sum();
        let need = Need {
            tenant: access.caller.project.clone(),
            class: access.class(None),
            weight: access.weight(),
            answers: 1,
            prompt_tokens: tokens,
            tokens,
            prefix: Vec::new(),
            avoid: Vec::new(),
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let inputs = texts.into_iter().map(|text| Input::Text(readable(&text)));
        let job = EmbedJob {
            request: Arc::new(Embed {
                inputs: inputs.collect(),
                dimensions: None,
            }),
            model: Arc::clone(&plan.pool),
        };
        let embedded = slot.embed(job, Arc::default()).await;
        Ok(embedded.map_err(metering::Error::Failed)?.vectors)
    }
}

/// An embedding model takes no empty text, and refuses what is longer than it can read.
fn readable(text: &str) -> String {
    match text.trim() {
        "" => ".".into(),
        text => text.chars().take(MOST_CHARS).collect(),
    }
}

/// Vectors have unit length, so that it is their cosine.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}
