//! mistral.rs, on a CPU one sequence at a time.
//!
//! There it batches sequences of one length alone, and mixes the text of others up, as a test below shows: so
//! a request waits for the one before it. On a GPU it has PagedAttention, and batches. Stop strings, whole
//! characters, counting and cancelling are ours, as for every engine; what it has no means for (a seed,
//! log-probabilities, formats, tools, penalties, a bare text) is refused by name.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use async_trait::async_trait;
use mistralrs::{
    DeviceMapSetting, GgufModelBuilder, MemoryGpuConfig, Model, PagedAttentionMetaBuilder,
    RequestBuilder, Response, SamplingParams, TextMessageRole, TextMessages, TextModelBuilder,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::text::Assembler;
use super::{Status, Thread};
use crate::telemetry::WorkerMetrics;
use crate::types;
use crate::types::{
    Delta, Event, Events, Failure, Finish, Format, Generate, Message, Progress, Prompt, Role,
    Sampling, ToolChoice, Usage,
};
use crate::worker::{Health, Worker};

/// Events of an answer beside its tokens.
const ENDS: usize = 2;
/// Whether it was built for a GPU, and has PagedAttention.
const GPU: bool = cfg!(any(feature = "cuda", feature = "metal"));
const BYTES_PER_TOKEN: usize = 1024;
/// Requests that may wait in the worker itself: the scheduler gives it no more than it runs.
const BOUND: usize = 256;

/// What a mistral.rs worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MistralOptions {
    /// Its name.
    pub name: String,
    /// A GGUF file, or a folder with safetensors, `config.json` and `tokenizer.json`.
    pub weights: PathBuf,
    /// Requests that run at once, where it computes on a GPU.
    pub slots: u32,
    /// Tokens that one request may have.
    pub context_tokens: u32,
}

impl MistralOptions {
    /// How many requests run at once.
    pub(in crate::worker) fn capacity(&self) -> usize {
        if GPU { self.slots as usize } else { 1 }
    }
}

/// A handle on the engine's thread, which ends when the last handle is gone.
pub struct Mistral {
    name: String,
    capacity: usize,
    context_tokens: u32,
    status: Arc<Status<()>>,
    thread: Thread<Job>,
}

struct Job {
    request: Arc<Generate>,
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
        let (capacity, context_tokens) = (options.capacity(), options.context_tokens);
        let told = Arc::clone(&status);
        let thread = Thread::start(
            format!("mistralrs-{name}"),
            BOUND,
            told,
            move |queue, status| load_and_run(&options, queue, &metrics, status),
        )?;
        Ok(Self {
            name,
            capacity,
            context_tokens,
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
    let capacity = options.capacity();
    let model = Arc::new(runtime.block_on(load(options, capacity))?);
    tracing::info!(worker = options.name, "ready");
    status.ready(Arc::new(()));
    let places = Arc::new(Semaphore::new(capacity));
    let mut answers = JoinSet::new();
    while let Ok(job) = queue.recv() {
        let place = runtime
            .block_on(Arc::clone(&places).acquire_owned())
            .map_err(|error| error.to_string())?;
        let (model, metrics) = (Arc::clone(&model), metrics.clone());
        let context_tokens = options.context_tokens;
        let answer = async move {
            let events = job.events.clone();
            metrics.running.inc();
            let answered = run(&model, job, context_tokens, &metrics).await;
            metrics.running.dec();
            if let Err(failure) = answered {
                // Whoever asked may have gone.
                let _gone = events.send(Err(failure)).await;
            }
            drop(place);
        };
        answers.spawn_on(answer, runtime.handle());
        while let Some(ended) = answers.try_join_next() {
            ended.map_err(|error| error.to_string())?;
        }
    }
    // What runs is answered to its end.
    runtime.block_on(answers.join_all());
    Ok(())
}

/// The model, with room for so many sequences.
async fn load(options: &MistralOptions, sequences: usize) -> Result<Model, String> {
    let weights = options.weights.as_path();
    let failed = |reason: &str| format!("{}: {reason}", weights.display());
    let cells = sequences * options.context_tokens as usize;
    let paged = PagedAttentionMetaBuilder::default()
        .with_gpu_memory(MemoryGpuConfig::ContextSize(cells))
        .build()
        .map_err(|error| failed(&error.to_string()))?;
    // The two builders have the same methods, and no trait.
    macro_rules! built {
        ($builder:expr) => {{
            let builder = $builder
                .with_max_num_seqs(sequences)
                // Its prefix cache knows no tenants.
                .with_prefix_cache_n(None);
            let builder = if GPU {
                // All of it on the device, or it gives PagedAttention up, and mixes sequences up as on a CPU.
                builder
                    .with_device_mapping(DeviceMapSetting::dummy())
                    .with_paged_attn(paged)
            } else {
                builder.with_force_cpu()
            };
            builder.build().await
        }};
    }
    let built = if weights.is_dir() {
        built!(TextModelBuilder::new(weights.display()))
    } else {
        let folder = weights.parent().ok_or_else(|| failed("no folder"))?;
        let file = weights.file_name().ok_or_else(|| failed("no file"))?;
        built!(GgufModelBuilder::new(
            folder.display(),
            vec![file.to_string_lossy()]
        ))
    };
    built.map_err(|error| failed(&format!("mistral.rs can't load it: {error}")))
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
    let mut assembler = Assembler::new(job.request.stop.clone());
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
    // What it can do of sampling, with the rest as if nobody had asked for it.
    let plain = Sampling {
        temperature: request.sampling.temperature,
        top_p: request.sampling.top_p,
        ..Sampling::default()
    };
    let asked = &request.sampling;
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits();
    for (param, neutral) in [
        ("n", request.choices == 1),
        ("response_format", request.format == Format::Text),
        ("logprobs", request.top_logprobs.is_none()),
        ("min_tokens", request.min_tokens == 0),
        ("ignore_eos", !request.ignore_eos),
        ("seed", asked.seed.is_none()),
        ("logit_bias", asked.logit_bias.is_empty()),
        ("top_k", asked.top_k == plain.top_k),
        ("min_p", same(asked.min_p, plain.min_p)),
        (
            "frequency_penalty",
            same(asked.frequency_penalty, plain.frequency_penalty),
        ),
        (
            "presence_penalty",
            same(asked.presence_penalty, plain.presence_penalty),
        ),
        (
            "repetition_penalty",
            same(asked.repetition_penalty, plain.repetition_penalty),
        ),
        // A setting that this list doesn't know yet.
        ("temperature", *asked == plain),
    ] {
        if !neutral {
            return Err(refuse(param));
        }
    }
    match request.prompts.as_slice() {
        [Prompt::Chat(chat)] if chat.opening.is_some() => Err(refuse("continue_final_message")),
        [Prompt::Chat(chat)]
            if chat.tools.functions.is_empty() || chat.tools.choice == ToolChoice::None =>
        {
            Ok(&chat.messages)
        }
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
        self.capacity
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn generate(&self, job: types::Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        self.status.loaded()?;
        // Room for a whole answer: mistral.rs waits for a slow reader with its batch in hand.
        let (sender, events) = mpsc::channel(self.context_tokens as usize + ENDS);
        self.thread.send(Job {
            request: job.request,
            progress,
            events: sender,
        })?;
        Ok(Box::pin(ReceiverStream::new(events)))
    }
}

#[cfg(all(test, not(any(feature = "cuda", feature = "metal"))))]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::types::Chat;

    /// Of different lengths.
    const ASKS: [&str; 8] = [
        "Name a fruit.",
        "What is the capital of France?",
        "Say hello.",
        "Write one sentence about the sea and the ships that sail on it in summer.",
        "Count from one to five.",
        "Which animal says moo? Answer with its name, then with a sentence on where it lives and what it eats.",
        "What colour is the sky?",
        "Why do people read books, and which ones do they keep?",
    ];

    async fn text(model: &Model, ask: &str) -> String {
        let (events, mut reader) = mpsc::channel(1024);
        let job = Job {
            request: Arc::new(Generate {
                prompts: vec![Prompt::Chat(Chat {
                    messages: vec![Message {
                        role: Role::User,
                        content: ask.into(),
                        name: None,
                        calls: Vec::new(),
                        call_id: None,
                    }],
                    ..Chat::default()
                })],
                max_tokens: Some(16),
                sampling: Sampling {
                    temperature: 0.0,
                    ..Sampling::default()
                },
                ..Generate::default()
            }),
            progress: Arc::default(),
            events,
        };
        let metrics = Metrics::new().unwrap().worker("w");
        run(model, job, 512, &metrics).await.unwrap();
        let mut text = String::new();
        while let Some(event) = reader.recv().await {
            if let Event::Delta(delta) = event.unwrap() {
                text.push_str(&delta.text);
            }
        }
        text
    }

    /// Why the capacity is 1. Once this fails, mistral.rs keeps sequences apart on a CPU too: lift the limit in
    /// [`MistralOptions::capacity`], and assert the opposite here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_the_limit_answers_are_mixed_up_on_a_cpu() {
        let home = PathBuf::from(std::env::var("HOME").unwrap());
        let options = MistralOptions {
            name: "w".into(),
            weights: home.join(".cache/forebay/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
            slots: 8,
            context_tokens: 512,
        };
        let model = load(&options, ASKS.len()).await.unwrap();
        let together =
            futures_util::future::join_all(ASKS.iter().map(|ask| text(&model, ask))).await;
        let mut mixed_up = 0;
        for (ask, together) in ASKS.iter().zip(together) {
            let alone = text(&model, ask).await;
            let other = together != alone;
            println!("{ask:?}: alone {alone:?}, together {together:?}");
            mixed_up += usize::from(other);
        }
        println!("{mixed_up} of {} answers are others together", ASKS.len());
        // Rounding may part one or two late in their text.
        assert!(
            mixed_up > ASKS.len() / 2,
            "answers are kept apart: the limit may go"
        );
    }
}
