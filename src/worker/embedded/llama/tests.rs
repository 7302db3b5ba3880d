//! The engine with a real model: `make setup-models` puts it where these tests look, and `FOREBAY_TEST_MODEL`
//! names another GGUF file. Nothing here takes for granted that the model was taught to chat.

mod answers;
mod isolation;

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::context::params::KvCacheType;
use tokio::sync::mpsc;

use super::answer;
use super::bank::BankSettings;
use super::engine::{Engine, Settings};
use super::model::Model;
use super::sequence::Request;
use super::urgency::Urgency;
use crate::telemetry::{Metrics, WorkerMetrics};
use crate::types::Thoughts;
use crate::types::{
    Chat, Class, Event, Failure, Finish, Generate, Job, Message, Preface, Progress, Prompt, Role,
    Sampling, TokenLogprob, Usage,
};

/// Two windows of Gemma 3 and more: what fell out of one is seen to be gone.
const CONTEXT: u32 = 2048;

/// The model that every test shares; loading it takes longer than most of them.
fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = std::env::var_os("FOREBAY_TEST_MODEL").map_or_else(quickstart, PathBuf::from);
        assert!(path.exists(), "no {}", path.display());
        Model::load(&path, CONTEXT, None, None).unwrap()
    })
}

/// What `make setup-models` brings.
fn quickstart() -> PathBuf {
    PathBuf::from(std::env::var("HOME").unwrap())
        .join(".cache/forebay/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn settings(slots: usize) -> Settings {
    Settings {
        bank: BankSettings {
            slots,
            step_tokens: 64,
            prefill_percent: 80,
            lookup: true,
            threads: 2,
            cells: KvCacheType::F16,
            fault: None,
        },
        adapter_slots: 2,
        adapters: 2,
        prefix_cache_bytes: 0,
    }
}

/// The way to a running engine.
struct Handle {
    queue: SyncSender<Request>,
    urgency: Arc<Urgency>,
    metrics: WorkerMetrics,
}

/// Runs an engine for as long as the test needs it, and sees that it leaves nothing behind.
fn with_engine<T>(settings: Settings, test: impl FnOnce(&Handle) -> T) -> T {
    let metrics = Metrics::new().unwrap().worker("w");
    let (queue, requests) = sync_channel(1024);
    let handle = Handle {
        queue,
        urgency: Arc::default(),
        metrics: metrics.clone(),
    };
    let (told, urgency) = (metrics.clone(), Arc::clone(&handle.urgency));
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            Engine::new(model(), settings, &requests, &urgency, told)
                .unwrap()
                .run();
        });
        // Moved in, so that a test that fails ends the engine as well.
        let handle = handle;
        test(&handle)
    });
    assert_eq!(
        (
            metrics.running.get(),
            metrics.waiting.get(),
            metrics.kv_cells.get()
        ),
        (0, 0, 0)
    );
    result
}

/// What comes with few requests.
#[derive(Default)]
struct Beside {
    thoughts: Option<Thoughts>,
    preface: Option<Preface>,
}

/// An answer under way.
struct Reading {
    events: mpsc::Receiver<Result<Event, Failure>>,
    progress: Arc<Progress>,
    prompt: Vec<u32>,
}

#[derive(Debug, Default, Clone)]
struct Read {
    text: String,
    thought: String,
    tokens: Vec<TokenLogprob>,
    finish: Option<Finish>,
}

impl Handle {
    fn ask(&self, request: Generate) -> Reading {
        self.ask_as("proj_a", Class::Standard, request)
    }

    fn ask_as(&self, tenant: &str, class: Class, request: Generate) -> Reading {
        self.ask_of(tenant, class, Beside::default(), request)
    }

    fn ask_of(&self, tenant: &str, class: Class, beside: Beside, request: Generate) -> Reading {
        let (events, reader) = answer::channel(request.answers());
        let progress = Arc::<Progress>::default();
        let prompts: Vec<_> = request
            .prompts
            .iter()
            .map(|prompt| model().prepare(prompt).unwrap())
            .collect();
        let prompt = prompts[0]
            .iter()
            .map(|token| token.0.cast_unsigned())
            .collect();
        let job = Job {
            request: Arc::new(request),
            model: "m".into(),
            asked: "m".into(),
            id: "a".into(),
            resumable: false,
            resume: None,
            tenant: tenant.into(),
            class,
            adapter: None,
            preface: beside.preface,
        };
        let request = Request {
            echo_from: model().answer_from(&job.request.prompts[0], &prompts[0]),
            shared: super::shared(&job, model(), &prompts),
            prompts,
            job,
            constraint: None,
            thoughts: beside.thoughts,
            calls: None,
            events,
            progress: Arc::clone(&progress),
            waits: self.urgency.announce(class),
        };
        self.queue.send(request).unwrap();
        Reading {
            events: reader,
            progress,
            prompt,
        }
    }
}

impl Reading {
    /// Reads until the end, or until the first choice has so many tokens, and goes then.
    fn read(&mut self, at_most: usize) -> Result<(Vec<Read>, Option<Usage>), Failure> {
        let mut choices: Vec<Read> = Vec::new();
        while let Some(event) = self.events.blocking_recv() {
            match event? {
                Event::Delta(delta) => {
                    let choice = delta.choice as usize;
                    choices.resize(choices.len().max(choice + 1), Read::default());
                    choices[choice].text.push_str(&delta.text);
                    choices[choice].thought.push_str(&delta.thought);
                    choices[choice].tokens.extend(delta.logprobs);
                    if choices[0].tokens.len() >= at_most {
                        self.events.close();
                        return Ok((choices, None));
                    }
                }
                Event::Finish { choice, finish } => {
                    let choice = choice as usize;
                    choices.resize(choices.len().max(choice + 1), Read::default());
                    choices[choice].finish = Some(finish);
                }
                Event::Relay { .. } => panic!("an engine speaks no client's words"),
                Event::End { usage } => return Ok((choices, Some(usage))),
            }
        }
        panic!("the engine went without an end");
    }

    fn whole(mut self) -> (Vec<Read>, Usage) {
        let (choices, usage) = self.read(usize::MAX).unwrap();
        (choices, usage.unwrap())
    }
}

fn chat(text: &str) -> Prompt {
    Prompt::Chat(Chat {
        messages: vec![turn(Role::User, text)],
        ..Chat::default()
    })
}

fn turn(role: Role, text: &str) -> Message {
    Message {
        role,
        content: text.into(),
        name: None,
        calls: Vec::new(),
        call_id: None,
    }
}

/// Greedy, with log-probabilities.
fn greedy(prompt: Prompt, max_tokens: u32) -> Generate {
    Generate {
        prompts: vec![prompt],
        max_tokens: Some(max_tokens),
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        ignore_eos: true,
        top_logprobs: Some(0),
        ..Generate::default()
    }
}
