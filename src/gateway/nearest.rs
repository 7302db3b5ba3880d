//! The worked examples that are nearest to a question, by the vectors of an embedding model of the site: what a model is
//! shown should look like what it is asked (arXiv 2101.06804).

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::OnceCell;

use super::{Error, Gateway};
use crate::metering;
use crate::router::Choice;
use crate::scheduler::Need;
use crate::tenancy::Access;
use crate::types::{Class, Embed, EmbedJob, Failure, Input, Kind, Precision, Profile};

/// As much of a text is looked at: MiniLM reads 256 tokens, of which a text has one for three bytes or more.
const MOST_BYTES: usize = 600;
/// No byte is more than a token.
const SURE_BYTES: usize = 240;
/// Examples that are read in one request.
const AT_ONCE: usize = 64;

/// The vectors of verticals' examples, made when they are first needed.
#[derive(Default)]
pub(super) struct Vectors(DashMap<String, Arc<OnceCell<Vec<Vec<f32>>>>>);

impl Gateway {
    /// Which of a vertical's examples are shown before a question, the nearest last.
    ///
    /// # Errors
    /// The embedding model has no room, or failed.
    pub async fn nearest(
        &self,
        caller: (&Access, Class),
        choice: &Choice,
        profile: &Profile,
        question: &str,
    ) -> Result<Vec<usize>, Error> {
        let Some(nearest) = &profile.nearest else {
            return Ok((0..profile.examples.len()).collect());
        };
        // What the examples mean depends on nothing but the revision.
        let name = format!("{} {}", choice.model(), choice.revision());
        let cell = Arc::clone(self.verticals.vectors.0.entry(name).or_default().value());
        let known = cell.get_or_try_init(async || {
            let inputs: Vec<_> = profile
                .examples
                .iter()
                .map(|example| &example.input)
                .collect();
            // Everybody else waits for it.
            let caller = (caller.0, Class::Interactive);
            self.vectors_of(caller, &nearest.embedding, &inputs).await
        });
        let known = known.await?;
        let asked = self
            .embedded(caller, &nearest.embedding, &[question])
            .await?;
        let asked = asked.first().map_or(&[][..], Vec::as_slice);
        let mut order: Vec<_> = (0..known.len()).collect();
        // A tie is broken by the order of the file.
        order.sort_by(|one, other| dot(&known[*other], asked).total_cmp(&dot(&known[*one], asked)));
        order.truncate(nearest.count);
        order.reverse();
        Ok(order)
    }

    /// The vectors of many texts.
    pub(super) async fn vectors_of(
        &self,
        caller: (&Access, Class),
        embedding: &str,
        texts: &[impl AsRef<str>],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(AT_ONCE) {
            let texts: Vec<_> = texts.iter().map(AsRef::as_ref).collect();
            vectors.extend(self.embedded(caller, embedding, &texts).await?);
        }
        Ok(vectors)
    }

    /// Vectors for the gateway's own use. They stand in no ledger: the vertical's price is what is paid. They wait in
    /// the tenant's own turn, so that nobody else waits for them.
    pub(super) async fn embedded(
        &self,
        caller: (&Access, Class),
        embedding: &str,
        texts: &[&str],
    ) -> Result<Vec<Vec<f32>>, Error> {
        match self.embed_texts(caller, embedding, texts, MOST_BYTES).await {
            // Of a text in another script every character may be a token.
            Err(Error::Metering(metering::Error::Failed(Failure::ContextLength { .. }))) => {
                self.embed_texts(caller, embedding, texts, SURE_BYTES).await
            }
            told => told,
        }
    }

    async fn embed_texts(
        &self,
        (access, class): (&Access, Class),
        embedding: &str,
        texts: &[&str],
        most_bytes: usize,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let texts: Vec<_> = texts
            .iter()
            .map(|text| readable(text, most_bytes))
            .collect();
        let plan = self
            .router
            .resolve(embedding, Kind::Embed, Class::default())?;
        let tokens = texts.iter().map(|text| text.len() as u64 / 3 + 2).sum();
        let need = Need {
            tenant: access.caller.project.clone(),
            class,
            weight: access.weight(),
            answers: 1,
            prompt_tokens: tokens,
            tokens,
            prefix: Vec::new(),
            avoid: Vec::new(),
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let inputs = texts.into_iter().map(Input::Text);
        let job = EmbedJob {
            request: Arc::new(Embed {
                inputs: inputs.collect(),
                dimensions: None,
                precision: Precision::Approximate,
            }),
            model: Arc::clone(&plan.pool),
        };
        let embedded = slot.embed(job, Arc::default()).await;
        let vectors = embedded.map_err(metering::Error::Failed)?.vectors;
        Ok(vectors.into_iter().map(unit).collect())
    }
}

/// An embedding model takes no empty text, and refuses what is longer than it can read.
fn readable(text: &str, most_bytes: usize) -> String {
    match text.trim() {
        "" => ".".into(),
        text => text[..text.floor_char_boundary(most_bytes)].to_owned(),
    }
}

/// Of length 1, as not every model makes them.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = dot(&vector, &vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    vector
}

/// The cosine of vectors of length 1.
pub(super) fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}
