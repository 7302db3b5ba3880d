//! llama.cpp's kernels under Forebay's own continuous batching.
//!
//! One thread owns the context and steps it; a [`Llama`] is the handle that sends it sequences. Prompts are
//! rendered and tokenised by the callers, so that the loop does nothing but compute.

mod adapter;
mod answer;
mod bank;
mod draft;
mod engine;
mod layout;
mod model;
mod pace;
mod plan;
mod prefix;
mod sequence;
mod trial;
mod urgency;
mod window;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use async_trait::async_trait;
use llama_cpp_2::context::params::KvCacheType;
use llama_cpp_2::token::LlamaToken;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

use super::constrain::{Constraint, Grammar};
use super::tools::{CallParser, blame};
use super::{Status, Thread, off_the_runtime, threads};
use crate::telemetry::WorkerMetrics;
use crate::types::Thoughts;
use crate::types::{
    CellType, Events, Failure, Format, Generate, Job, Layout, Measure, Progress, Prompt, Thinking,
    Tokenize, Tokenized, ToolChoice, ToolFormat, Tools,
};
use crate::worker::{Health, Worker};
use bank::BankSettings;
use engine::{Engine, Settings};
use model::Model;
use sequence::Request;
pub(in crate::worker) use trial::try_load;
use urgency::Urgency;

const MIB: usize = 1 << 20;
/// Grammars that are compiled at once.
const COMPILERS: usize = 2;

/// What a llama worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LlamaOptions {
    /// Its name.
    pub name: String,
    /// A GGUF file.
    pub weights: PathBuf,
    /// Sequences in the batch.
    pub slots: u32,
    /// Tokens that one sequence may have.
    pub context_tokens: u32,
    /// Prompt tokens in a step while others generate.
    pub step_tokens: u32,
    /// What reading a long prompt may add to a step, in percent of what the step takes without.
    pub prefill_percent: u32,
    /// Whether tokens are computed ahead where a text goes on as it did before, as long as that is faster.
    pub lookup: bool,
    /// How the cells of the KV cache are kept.
    pub cells: CellType,
    /// MiB of host memory for states that later prompts may begin with; 0 keeps none.
    pub prefix_cache_mib: u32,
    /// Adapters that are loaded at once.
    pub adapters: u32,
    /// Sequences of each adapter.
    pub adapter_slots: u32,
    /// How the weights are kept.
    pub layout: Layout,
    /// Where re-laid copies are kept.
    pub layouts: PathBuf,
    /// Where it is kept which files were tried in a process of their own before they are loaded into this one.
    /// None where they need not be: this process may die of them.
    pub trials: Option<PathBuf>,
    /// How the model spells calls of functions; its chat template tells where this is `None`.
    pub tool_format: Option<ToolFormat>,
    /// Whether it thinks before it answers; its chat template tells where this is `None`.
    pub thinks: Option<bool>,
    /// Threads that compute.
    pub threads: Option<u32>,
}

/// A handle on an engine's thread, which ends when the last handle is gone.
pub struct Llama {
    name: String,
    slots: u32,
    /// One for each grammar that is being compiled.
    compilers: Arc<Semaphore>,
    status: Arc<Status<Model>>,
    urgency: Arc<Urgency>,
    /// There is a prefix cache.
    keeps_prefixes: bool,
    thread: Thread<Request>,
}

impl Llama {
    /// Starts the engine's thread, which loads the model and then waits for requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: LlamaOptions, metrics: WorkerMetrics) -> std::io::Result<Self> {
        let status = Arc::new(Status::loading(metrics.clone()));
        let (name, slots) = (options.name.clone(), options.slots);
        let keeps_prefixes = options.prefix_cache_mib > 0;
        // Twice the slots: those that run, and those that come while cancelled ones still leave.
        let bound = 2 * slots as usize;
        let told = Arc::clone(&status);
        let urgency = Arc::<Urgency>::default();
        let shared = Arc::clone(&urgency);
        let thread = Thread::start(
            format!("llama-{name}"),
            bound,
            told,
            move |queue, status| load_and_run(&options, queue, &shared, metrics, status),
        )?;
        Ok(Self {
            name,
            slots,
            compilers: Arc::new(Semaphore::new(COMPILERS)),
            status,
            urgency,
            keeps_prefixes,
            thread,
        })
    }
}

fn load_and_run(
    options: &LlamaOptions,
    queue: &Receiver<Request>,
    urgency: &Arc<Urgency>,
    metrics: WorkerMetrics,
    status: &Status<Model>,
) -> Result<(), String> {
    let threads = threads(options.threads);
    trial::check_memory(&options.weights)?;
    if let Some(trials) = &options.trials {
        trial::try_once(&options.weights, trials)?;
    }
    let weights = layout::choose(&options.weights, options.layout, &options.layouts, threads)?;
    let model = Arc::new(Model::load(
        &weights,
        options.context_tokens,
        options.tool_format,
        options.thinks,
    )?);
    let settings = Settings {
        bank: BankSettings {
            slots: options.slots as usize,
            step_tokens: options.step_tokens as usize,
            prefill_percent: options.prefill_percent,
            lookup: options.lookup,
            threads,
            cells: match options.cells {
                CellType::F16 => KvCacheType::F16,
                CellType::Q8_0 => KvCacheType::Q8_0,
            },
            #[cfg(test)]
            fault: None,
        },
        adapter_slots: options.adapter_slots as usize,
        adapters: options.adapters as usize,
        prefix_cache_bytes: options.prefix_cache_mib as usize * MIB,
    };
    let engine = Engine::new(&model, settings, queue, urgency, metrics)?;
    tracing::info!(worker = options.name, "ready");
    status.ready(Arc::clone(&model));
    std::thread::scope(|scope| {
        // It takes seconds for a large vocabulary: the first request that needs it shall not wait for all of it.
        scope.spawn(|| model.grammars().is_ok());
        engine.run();
    });
    Ok(())
}

#[async_trait]
impl Worker for Llama {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.slots as usize
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    fn preempts(&self) -> bool {
        true
    }

    async fn measure(&self, request: &Generate) -> Result<Option<Measure>, Failure> {
        let model = self.status.loaded()?;
        let (prompts, choices) = (request.prompts.clone(), u64::from(request.choices));
        let most = request.max_tokens;
        let measured = tokio::task::spawn_blocking(move || {
            let mut measure = Measure {
                prompt_tokens: 0,
                completion_tokens: 0,
            };
            for prompt in &prompts {
                let tokens = model.prepare(prompt)?.len() as u64;
                let room = u64::from(model.context_tokens).saturating_sub(tokens);
                measure.prompt_tokens += tokens;
                measure.completion_tokens +=
                    choices * most.map_or(room, |most| room.min(most.into()));
            }
            Ok(Some(measure))
        });
        measured
            .await
            .map_err(|_| Failure::Broken("the prompt could not be measured".into()))?
    }

    async fn tokenize(&self, _: &str, ask: Tokenize) -> Result<Tokenized, Failure> {
        let model = self.status.loaded()?;
        off_the_runtime(move || model.tokenized(&ask)).await
    }

    async fn detokenize(&self, _: &str, tokens: Vec<u32>) -> Result<String, Failure> {
        let model = self.status.loaded()?;
        off_the_runtime(move || model.text_of(&tokens)).await
    }

    async fn generate(&self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        let model = self.status.loaded()?;
        let (events, reader) = answer::channel(job.request.answers());
        // Compiling a grammar can take a core for a second: a flood of them leaves some for the others.
        let turn = if is_constrained(&job.request) {
            Arc::clone(&self.compilers).acquire_owned().await.ok()
        } else {
            None
        };
        let urgency = Arc::clone(&self.urgency);
        let keeps_prefixes = self.keeps_prefixes;
        // A long prompt takes milliseconds to tokenise, which other requests' tasks shall not wait for.
        let prepared = tokio::task::spawn_blocking(move || {
            let prompts = job.request.prompts.iter();
            let (constraint, calls) = form(&job.request, &model)?;
            drop(turn);
            let prompts: Vec<_> = prompts
                .map(|prompt| model.prepare(prompt))
                .collect::<Result<_, Failure>>()?;
            let first = job.request.prompts.first().zip(prompts.first());
            Ok(Request {
                echo_from: first.map_or(0, |(prompt, tokens)| model.answer_from(prompt, tokens)),
                thoughts: thoughts(&job.request, &model, &prompts),
                shared: if keeps_prefixes {
                    shared(&job, &model, &prompts)
                } else {
                    0
                },
                prompts,
                constraint,
                calls,
                waits: urgency.announce(job.class),
                job,
                events,
                progress,
            })
        });
        let request = prepared
            .await
            .map_err(|_| Failure::Broken("the prompt could not be prepared".into()))?;
        self.thread.send(request?)?;
        Ok(Box::pin(ReceiverStream::new(reader)))
    }
}

/// What finds thoughts in the answers; none where there can't be any.
fn thoughts(request: &Generate, model: &Model, prompts: &[Vec<LlamaToken>]) -> Option<Thoughts> {
    match (request.prompts.first(), prompts.first()) {
        (Some(Prompt::Chat(chat)), Some(prompt)) if chat.thinking != Thinking::Off => {
            model.thoughts_after(prompt)
        }
        _ => None,
    }
}

/// Tokens that the prompt begins with and that its vertical's own words make, whatever the client says behind them.
fn shared(job: &Job, model: &Model, prompts: &[Vec<LlamaToken>]) -> usize {
    let (Some(preface), [Prompt::Chat(chat)], [prompt]) =
        (job.preface, job.request.prompts.as_slice(), prompts)
    else {
        return 0;
    };
    let own = model.prepare(&Prompt::Chat(chat.cut(preface)));
    own.map_or(0, |own| prefix::shared(&own, prompt))
}

/// Whether a grammar may have to be compiled for it.
fn is_constrained(request: &Generate) -> bool {
    let has_tools = |prompt: &Prompt| match prompt {
        Prompt::Chat(chat) => !chat.tools.functions.is_empty(),
        _ => false,
    };
    request.format != Format::Text || request.prompts.iter().any(has_tools)
}

/// What the answers have to be, and what finds calls in them. A call that has to be made leaves no room for
/// a format; where the model is free to call, a format leaves none for calls. A model that is free to call is held to the
/// schemas of strict functions, if it can be.
fn form(
    request: &Generate,
    model: &Model,
) -> Result<(Option<Constraint>, Option<CallParser>), Failure> {
    let (tools, thinking) = match request.prompts.first() {
        Some(Prompt::Chat(chat)) if chat.tools.choice != ToolChoice::None => {
            (&chat.tools, &chat.thinking)
        }
        _ => (&Tools::default(), &Thinking::Off),
    };
    let forced = tools.choice != ToolChoice::Auto;
    if !tools.functions.is_empty() && (forced || request.format == Format::Text) {
        let format = model.tool_format();
        let compile = |grammar| {
            let compiled = model.grammars()?.compile(&Grammar::Lark(grammar), "tools");
            compiled.map_err(|failure| match failure {
                Failure::Invalid { message, .. } => blame(tools, &message),
                other => other,
            })
        };
        let grammar = if forced || model.calls_can_be_held(thinking) {
            format.grammar(tools)?
        } else {
            None
        };
        let constraint = grammar.map(compile).transpose()?;
        return Ok((constraint, Some(CallParser::new(format, forced, tools))));
    }
    let grammar = match &request.format {
        Format::Text => return Ok((None, None)),
        Format::JsonObject => Grammar::JsonObject,
        Format::JsonSchema(schema) => Grammar::JsonSchema(schema.clone()),
    };
    let compiled = model.grammars()?.compile(&grammar, "response_format")?;
    Ok((Some(compiled), None))
}
