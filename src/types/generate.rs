use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Class, ProjectId, Relay};

/// A request to a model, free of any wire format.
///
/// Each of `prompts` gets `choices` answers. Choice `c` of prompt `p` has the index `p * choices + c`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Generate {
    /// What the model goes on from; never empty.
    pub prompts: Vec<Prompt>,
    /// Answers to each prompt, at least 1.
    pub choices: u32,
    /// At most this many tokens are generated; `None` is as many as the context has room for. 0 only with
    /// `echo`.
    pub max_tokens: Option<u32>,
    /// The model's own end can't come before this many tokens.
    pub min_tokens: u32,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// Goes on past the model's own end, up to `max_tokens`. For benchmarks.
    pub ignore_eos: bool,
    /// With each token its log-probability and this many alternatives; `None` is neither.
    pub top_logprobs: Option<u8>,
    /// The answer begins with the prompt, its log-probabilities included where they were asked for.
    pub echo: bool,
    /// What the answer has to be.
    pub format: Format,
    /// The same in the client's own words, where a worker may speak them. It stays in this process.
    #[serde(skip)]
    pub relay: Option<Relay>,
}

/// What a request would take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Tokens of its prompts.
    pub prompt_tokens: u64,
    /// Tokens that its answers may have at most, all together.
    pub completion_tokens: u64,
}

/// A request with what a worker has to know of who asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct Job {
    /// What is asked.
    pub request: Arc<Generate>,
    /// The model's name among workers.
    pub model: Arc<str>,
    /// The model's name to the client.
    pub asked: Arc<str>,
    /// The answer's id to the client.
    pub id: Arc<str>,
    /// Another worker may go on with it: its text is to be told.
    pub resumable: bool,
    /// It was begun elsewhere.
    pub resume: Option<Resume>,
    /// Whose it is: nothing that is kept of it serves anybody else.
    pub tenant: ProjectId,
    /// How urgent it is.
    pub class: Class,
    /// The LoRA adapter to be used over the worker's weights (arXiv 2106.09685).
    pub adapter: Option<Arc<Adapter>>,
    /// What of the conversation is the vertical's: that may serve all its tenants.
    pub preface: Option<Preface>,
}

/// How much of a conversation a vertical says before its clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preface {
    /// Turns that are the vertical's, the first ones; at least 1.
    pub turns: usize,
    /// Bytes of the first of them that are the vertical's, where a client's own may follow in it.
    pub system_bytes: Option<usize>,
}

/// What an answer had when its worker failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resume {
    /// Its text.
    pub text: String,
    /// Tokens that were spent on it.
    pub tokens: u32,
}

/// A LoRA adapter over a base model's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// A GGUF file.
    pub path: PathBuf,
    /// What its change of the weights is multiplied with; 1 is as it was trained.
    pub scale: f32,
    /// A name for the file's content, by which one is told from another of the same name; empty where it could not be read.
    #[serde(default)]
    pub content: String,
}

/// What a model goes on from.
#[derive(Clone, Serialize, Deserialize)]
pub enum Prompt {
    /// A conversation, put into the model's own form by its chat template.
    Chat(Chat),
    /// A text, taken as it is.
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

/// A conversation, and the tools that the model may call in it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Chat {
    /// Its turns, oldest first.
    pub messages: Vec<Message>,
    /// What may be called; none where there are no functions.
    pub tools: Tools,
    /// How much the model thinks before it answers, where it is one that does.
    pub thinking: Thinking,
    /// What the answer begins with: the model goes on from there.
    pub opening: Option<String>,
}

impl Chat {
    /// The conversation that a vertical's own words are without the client's.
    #[must_use]
    pub fn cut(&self, preface: Preface) -> Self {
        let turns = preface.turns.min(self.messages.len());
        let mut messages = self.messages[..turns].to_vec();
        if let (Some(bytes), Some(system)) = (preface.system_bytes, messages.first_mut()) {
            system.content.truncate(bytes);
        }
        Self {
            messages,
            ..Self::default()
        }
    }
}

/// How much a model thinks before it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thinking {
    /// As it likes.
    #[default]
    Free,
    /// This much, in OpenAI's words.
    Effort(String),
    /// Not at all.
    Off,
}

/// One turn of a conversation.
#[derive(Clone, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// A name that tells speakers of one role apart, where the template shows it.
    pub name: Option<String>,
    /// Of the assistant: what it called.
    pub calls: Vec<ToolCall>,
    /// Of a tool: the id of the call that it answers.
    pub call_id: Option<String>,
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The operator's instructions; `developer` in newer clients.
    System,
    /// The person who asks.
    User,
    /// The model itself.
    Assistant,
    /// What a tool gave.
    Tool,
}

impl Role {
    /// The name that chat templates compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Functions that the model may call.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Tools {
    /// What there is.
    pub functions: Vec<Function>,
    /// Whether it has to.
    pub choice: ToolChoice,
    /// One answer may hold more than one call.
    pub parallel: bool,
}

/// A function that the model may call.
#[derive(Clone, Serialize, Deserialize)]
pub struct Function {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// A JSON Schema of its arguments, which are an object.
    pub parameters: Map<String, Value>,
    /// The arguments have to follow the schema even where the model is free to call or not. So they do where calls are in
    /// Hermes' form and no thoughts come before them.
    pub strict: bool,
}

/// Whether a model has to call a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolChoice {
    /// It must not, and doesn't hear of any.
    None,
    /// As it sees fit.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Tells it from the answer's other calls.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// What an answer has to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that is valid under this schema.
    JsonSchema(Value),
}

/// How the next token is chosen from the model's distribution. The steps are taken in the order of the fields
/// up to `temperature`, then min-p, top-k and top-p each cut what the one before left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides a positive logit of each token that prompt or answer hold, and multiplies a negative one
    /// (arXiv 1909.05858); 1 is none.
    pub repetition_penalty: f32,
    /// Taken off a token's logit for each time that the answer holds it.
    pub frequency_penalty: f32,
    /// Taken off a token's logit once, where the answer holds it.
    pub presence_penalty: f32,
    /// 0 takes the likeliest token; 1 draws from the distribution as it is.
    pub temperature: f32,
    /// Leaves tokens with at least this share of the likeliest one's probability (arXiv 2407.01082); 0 is all.
    pub min_p: f32,
    /// Leaves this many of the likeliest tokens; 0 is all.
    pub top_k: u32,
    /// Draws from the smallest set of likeliest tokens that has this mass (nucleus sampling,
    /// arXiv 1904.09751).
    pub top_p: f32,
    /// Starts the random numbers; `None` starts them anew each time.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// Draws from the distribution as it is.
    fn default() -> Self {
        Self {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: 1.0,
            min_p: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: None,
        }
    }
}

impl Default for Generate {
    /// One answer to no prompt yet.
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            choices: 1,
            max_tokens: None,
            min_tokens: 0,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_eos: false,
            top_logprobs: None,
            echo: false,
            format: Format::Text,
            relay: None,
        }
    }
}

impl Generate {
    /// Whether its client reads it as it comes, as far as it is in its own words.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.relay.as_ref().is_none_or(|relay| relay.streams)
    }

    /// How many answers it asks for, over all prompts.
    #[must_use]
    pub fn answers(&self) -> u32 {
        // In its own words it has no prompts, and the choices are those of all of them.
        u32::try_from(self.prompts.len().max(1))
            .unwrap_or(u32::MAX)
            .saturating_mul(self.choices)
    }
}
