//! mistral.rs, one sequence at a time.
//!
//! On a CPU it batches sequences of one length alone, and mixes the text of others up: so a request waits
//! for the one before it. Stop strings, whole characters, counting and cancelling are ours, as for every
//! engine; what it has no means for (a seed, log-probabilities, a bare text) is refused by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use async_trait::async_trait;
use mistralrs::{
    GgufModelBuilder, Model, RequestBuilder, Response, SamplingParams, TextMessageRole,
    TextMessages,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::text::Assembler;
use super::{Status, Thread};
use crate::telemetry::WorkerMetrics;
use crate::types;
use crate::types::{
    Delta, Event, Events, Failure, Finish, Generate, Message, Progress, Prompt, Role, Usage,
};
use crate::worker::{Health, Worker};

const EVENTS: usize = 64;
/// Requests that run at once.
pub(in crate::worker) const CAPACITY: usize = 1;
const BYTES_PER_TOKEN: usize = 1024;
/// Requests that may wait in the worker itself: the scheduler gives it one at a time.
const BOUND: usize = 8;

/// What a mistral.rs worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MistralOptions {
    /// Its name.
    pub name: String,
    /// A GGUF file.
    pub weights: PathBuf,
    /// Tokens that one request may have.
    pub context_tokens: u32,
}

/// A handle on the engine's thread, which ends when the last handle is gone.
pub struct Mistral {
    name: String,
    status: Arc<Status<()>>,
    thread: Thread<Job>,
}

struct Job {
    request: Generate,
    progress: Arc<Progress>,
    events: mpsc::Sender<Result<Event, Failure>>,
}

impl Mistral {
    /// Starts the engine's thread, which loads the model and then waits for requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: MistralOptions, metrics: WorkerMetrics) -> std::io::Result<Self> {
        let status = Arc::new(Status::loading(metrics.clone()));
        let name = options.name.clone();
        let told = Arc::clone(&status);
        let thread = Thread::start(
            format!("mistralrs-{name}"),
            BOUND,
            told,
            move |queue, status| load_and_run(&options, queue, &metrics, status),
        )?;
        Ok(Self {
            name,
            status,
            thread,
        })
    }
}

fn load_and_run(
    options: &MistralOptions,
    queue: &Receiver<Job>,
    metrics: &WorkerMetrics,
    status: &Status<()>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let model = runtime.block_on(load(&options.weights))?;
    tracing::info!(worker = options.name, "ready");
    status.ready(Arc::new(()));
    while let Ok(job) = queue.recv() {
        metrics.running.set(1);
        let events = job.events.clone();
        if let Err(failure) = runtime.block_on(run(&model, job, options.context_tokens, metrics)) {
            // Whoever asked may have gone.
            let _gone = events.blocking_send(Err(failure));
        }
        metrics.running.set(0);
    }
    Ok(())
}

async fn load(weights: &Path) -> Result<Model, String> {
    let failed = |reason: &str| format!("{}: {reason}", weights.display());
    let folder = weights.parent().ok_or_else(|| failed("no folder"))?;
    let file = weights.file_name().ok_or_else(|| failed("no file"))?;
    GgufModelBuilder::new(folder.display(), vec![file.to_string_lossy()])
        .with_force_cpu()
        .with_max_num_seqs(1)
        // Its prefix cache knows no tenants.
        .with_prefix_cache_n(None)
        .build()
        .await
        .map_err(|error| failed(&format!("mistral.rs can't load it: {error}")))
}

async fn run(
    model: &Model,
    job: Job,
    context_tokens: u32,
    metrics: &WorkerMetrics,
) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Broken(error.to_string());
    if job.events.is_closed() {
        return Ok(());
    }
    let messages = supported(&job.request)?;
    let prompt_tokens = prompt_tokens(model, messages, context_tokens).await?;
    if job.events.is_closed() || !job.progress.start(prompt_tokens) {
        return Ok(());
    }
    metrics.prefill_tokens.inc_by(prompt_tokens.into());
    let room = context_tokens - prompt_tokens;
    let limit = job.request.max_tokens.map_or(room, |asked| asked.min(room));
    let mut stream = model
        .stream_chat_request(request(&job.request, messages, limit))
        .await
        .map_err(|error| broken(&error))?;
    let mut assembler = Assembler::new(job.request.stop);
    let mut usage = Usage {
        prompt_tokens,
        ..Usage::default()
    };
    loop {
        // A prompt may take long to read, and its client may go meanwhile.
        let response = tokio::select! {
            response = stream.next() => response,
            () = job.events.closed() => return Ok(()),
        };
        let Some(response) = response else {
            return Err(Failure::Broken("its answer has no end".into()));
        };
        let chunk = match response {
            Response::Chunk(chunk) => chunk,
            Response::ModelError(message, _) => return Err(Failure::Broken(message)),
            Response::InternalError(error) | Response::ValidationError(error) => {
                return Err(broken(&error));
            }
            _ => return Err(Failure::Broken("it answered in another form".into())),
        };
        let Some(choice) = chunk.choices.into_iter().next() else {
            continue;
        };
        // A refused count means that nobody waits; dropping the stream ends the work.
        if !job.progress.advance() {
            return Ok(());
        }
        metrics.decode_tokens.inc();
        usage.completion_tokens += 1;
        let shown = assembler.push(choice.delta.content.unwrap_or_default().as_bytes());
        let mut text = shown.text;
        let finish = match choice.finish_reason.as_deref() {
            _ if shown.stopped => Some(Finish::Stop),
            Some("length") => Some(Finish::Length),
            Some(_) => Some(Finish::Stop),
            None => None,
        };
        if finish.is_some() && !shown.stopped {
            text.push_str(&assembler.finish());
        }
        if !text.is_empty()
            && tell(
                &job.events,
                Event::Delta(Delta {
                    text,
                    ..Delta::default()
                }),
            )
            .await
            .is_err()
        {
            return Ok(());
        }
        if let Some(finish) = finish {
            let _gone = tell(&job.events, Event::Finish { choice: 0, finish }).await;
            let _gone = tell(&job.events, Event::End { usage }).await;
            return Ok(());
        }
    }
}

async fn tell(events: &mpsc::Sender<Result<Event, Failure>>, event: Event) -> Result<(), ()> {
    events.send(Ok(event)).await.map_err(drop)
}

/// The conversation, where nothing is asked that this engine has no means for.
fn supported(request: &Generate) -> Result<&[Message], Failure> {
    let refuse = |param| Failure::Invalid {
        param: Some(std::borrow::Cow::Borrowed(param)),
        message: format!("{param} is not supported by this model's engine"),
    };
    if request.sampling.seed.is_some() {
        return Err(refuse("seed"));
    }
    if request.top_logprobs.is_some() {
        return Err(refuse("logprobs"));
    }
    if request.ignore_eos {
        return Err(refuse("ignore_eos"));
    }
    match request.prompts.as_slice() {
        [Prompt::Chat(chat)] if chat.tools.functions.is_empty() => Ok(&chat.messages),
        [Prompt::Chat(_)] => Err(refuse("tools")),
        _ => Err(refuse("prompt")),
    }
}

async fn prompt_tokens(
    model: &Model,
    messages: &[Message],
    context_tokens: u32,
) -> Result<u32, Failure> {
    // Before the tokens are counted: no token of a text has as many bytes.
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let at_least = u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
    if at_least > context_tokens {
        return Err(too_long(context_tokens, at_least));
    }
    let conversation = messages.iter().fold(TextMessages::new(), |all, message| {
        all.add_message(role(message.role), &message.content)
    });
    let tokens = model
        .tokenize(either::Either::Left(conversation), None, false, true, None)
        .await
        .map_err(|error| Failure::Broken(error.to_string()))?;
    let length = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    if length >= context_tokens {
        return Err(too_long(context_tokens, length));
    }
    Ok(length)
}

fn too_long(context: u32, prompt: u32) -> Failure {
    Failure::ContextLength {
        context,
        prompt,
        param: "messages".into(),
    }
}

fn request(request: &Generate, messages: &[Message], limit: u32) -> RequestBuilder {
    let mut sampling = SamplingParams::deterministic();
    if request.sampling.temperature > 0.0 {
        sampling = SamplingParams::neutral();
        sampling.temperature = Some(request.sampling.temperature.into());
        sampling.top_p = Some(request.sampling.top_p.into());
    }
    // After the sampler is chosen, which sets a length of its own.
    sampling.max_len = Some(limit as usize);
    messages
        .iter()
        .fold(RequestBuilder::new(), |all, message| {
            all.add_message(role(message.role), &message.content)
        })
        .set_sampling(sampling)
}

fn role(role: Role) -> TextMessageRole {
    match role {
        Role::System => TextMessageRole::System,
        Role::User => TextMessageRole::User,
        Role::Assistant => TextMessageRole::Assistant,
        Role::Tool => TextMessageRole::Tool,
    }
}

#[async_trait]
impl Worker for Mistral {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn generate(&self, job: types::Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        self.status.loaded()?;
        let (sender, events) = mpsc::channel(EVENTS);
        self.thread.send(Job {
            request: job.request,
            progress,
            events: sender,
        })?;
        Ok(Box::pin(ReceiverStream::new(events)))
    }
}
