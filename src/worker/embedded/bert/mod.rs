//! Sentence embeddings: a BERT encoder (arXiv 1908.10084).

mod attention;
mod batch;
mod encoder;
mod folder;
mod int8;
mod linear;
mod norm;
mod pooling;
mod queue;
mod tokens;
mod transformer;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Status, Thread, off_the_runtime};
use crate::telemetry::WorkerMetrics;
use crate::types::{Embed, EmbedJob, Embedded, Failure, Progress, Tokenize, Tokenized};
use crate::worker::{Health, Worker};
use encoder::Encoder;
use folder::Folder;
use queue::{Job, Queue};
use tokens::Tokens;

/// What an embedding worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BertOptions {
    /// Its name.
    pub name: String,
    /// A folder as sentence-transformers writes it.
    pub weights: PathBuf,
    /// Requests that may be on their way at once.
    pub slots: u32,
}

/// A handle on an encoder's thread, which ends when the last handle is gone.
pub struct Bert {
    name: String,
    slots: u32,
    status: Arc<Status<Model>>,
    thread: Thread<Job>,
}

/// What was loaded: requests are read by the one half where they come in, and computed by the other on the
/// encoder's thread.
struct Model {
    tokens: Tokens,
    encoder: Encoder,
}

impl Model {
    fn load(folder: &Path) -> Result<Self, String> {
        let folder = Folder::read(folder)?;
        Ok(Self {
            tokens: Tokens::load(&folder)?,
            encoder: Encoder::load(&folder)?,
        })
    }

    /// All that can be wrong with a request is found here.
    fn read(&self, request: &Embed, progress: &Progress) -> Result<Vec<tokens::Row>, Failure> {
        let most = self.encoder.dimensions();
        let asked = request.dimensions;
        if asked.is_some_and(|asked| asked == 0 || asked as usize > most) {
            return Err(Failure::Invalid {
                param: Some("dimensions".into()),
                message: format!("dimensions must be 1 to {most} for this model"),
            });
        }
        self.tokens.rows(&request.inputs, || progress.is_closed())
    }
}

impl Bert {
    /// Starts the encoder's thread, which loads the model and then waits for requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: BertOptions, metrics: WorkerMetrics) -> std::io::Result<Self> {
        let status = Arc::new(Status::loading(metrics.clone()));
        let (name, slots) = (options.name.clone(), options.slots);
        let bound = 2 * slots as usize;
        let told = Arc::clone(&status);
        let thread = Thread::start(format!("bert-{name}"), bound, told, move |jobs, status| {
            let model = Arc::new(Model::load(&options.weights)?);
            tracing::info!(worker = options.name, "ready");
            status.ready(Arc::clone(&model));
            Queue::new(jobs, slots as usize, metrics).run(&model.encoder);
            Ok(())
        })?;
        Ok(Self {
            name,
            slots,
            status,
            thread,
        })
    }
}

#[async_trait]
impl Worker for Bert {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.slots as usize
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn measure_embed(&self, request: &Embed) -> Result<Option<u32>, Failure> {
        let (model, request) = (self.status.loaded()?, request.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let rows = model.read(&request, &Progress::default())?;
            let tokens: usize = rows.iter().map(tokens::Row::len).sum();
            Ok(u32::try_from(tokens).ok())
        });
        measured
            .await
            .map_err(|_| Failure::Broken("the texts could not be measured".into()))?
    }

    async fn tokenize(&self, _: &str, ask: Tokenize) -> Result<Tokenized, Failure> {
        let model = self.status.loaded()?;
        off_the_runtime(move || model.tokens.tokenized(&ask)).await
    }

    async fn detokenize(&self, _: &str, tokens: Vec<u32>) -> Result<String, Failure> {
        let model = self.status.loaded()?;
        off_the_runtime(move || model.tokens.text_of(&tokens)).await
    }

    async fn embed(&self, job: EmbedJob, progress: Arc<Progress>) -> Result<Embedded, Failure> {
        let model = self.status.loaded()?;
        let wanted = (job.request.dimensions, job.request.precision);
        let reader = Arc::clone(&progress);
        // Megabytes of text take seconds to tokenise, which other requests' tasks shall not wait for.
        let read = tokio::task::spawn_blocking(move || model.read(&job.request, &reader));
        let rows = read
            .await
            .map_err(|_| Failure::Broken("the inputs could not be read".into()))??;
        let (reply, answer) = oneshot::channel();
        self.thread.send(Job::new(rows, wanted, progress, reply))?;
        let ended = |_| Failure::Broken("its thread has ended".into());
        answer.await.map_err(ended)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Input, Precision};

    /// Of a kind that `auto` is asked.
    const TEXTS: [&str; 8] = [
        "The trash rack is clogged and the turbine loses head.",
        "How do I clean leaves off the intake screen of a small power station?",
        "My sourdough does not rise in the cold kitchen.",
        "Which flour makes a bread dough proof faster?",
        "The dog limps on its front left leg since yesterday.",
        "Our cat does not eat and hides under the bed; should a vet see her?",
        "Please refund the two train tickets that I bought twice.",
        "Is my railway pass valid on the night express to the coast?",
    ];

    fn model() -> Model {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        let folder = home.join(".cache/forebay/models/all-minilm-l6-v2");
        Model::load(&folder).expect("all-minilm-l6-v2 is brought by `make setup-models`")
    }

    fn vectors(model: &Model, precision: Precision) -> Vec<Vec<f32>> {
        let inputs: Vec<_> = TEXTS.map(|text| Input::Text(text.into())).into();
        let rows = model.tokens.rows(&inputs, || false).unwrap();
        let vectors = model.encoder.compute(&rows, precision).unwrap();
        let finish = |vector| model.encoder.finish(vector, None);
        vectors.into_iter().map(finish).collect()
    }

    fn cosine(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    }

    #[test]
    fn in_integers_the_same_texts_are_near_each_other() {
        let model = model();
        let full = vectors(&model, Precision::Full);
        let approximate = vectors(&model, Precision::Approximate);
        for (text, (one, other)) in TEXTS.iter().zip(full.iter().zip(&approximate)) {
            let apart = 1.0 - cosine(one, other);
            assert!(apart < 0.01, "{apart} apart: {text}");
            // And not by way of the floats.
            assert!(one != other);
        }
        for (place, text) in TEXTS.iter().enumerate() {
            let nearest = |vectors: &[Vec<f32>]| {
                let others = (0..TEXTS.len()).filter(|other| *other != place);
                let near = |other: &usize| cosine(&vectors[place], &vectors[*other]);
                others.max_by(|one, other| near(one).total_cmp(&near(other)))
            };
            assert_eq!(nearest(&full), nearest(&approximate), "{text}");
        }
    }
}
