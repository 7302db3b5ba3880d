//! The shapes of a chat's answer.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::openai::WireUsage;
use crate::api::openai::answer::{Choice, Shape, Whole};
use crate::api::openai::logprobs::Logprobs;
use crate::types::{CallDelta, Delta, Finish, ToolCall, Usage};

/// What a request says of the form of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) asks_logprobs: bool,
    pub(super) include_usage: bool,
    /// It named its functions in `functions`, so calls are told in `function_call`.
    pub(super) legacy: bool,
    /// It named the function that is to be called.
    pub(super) forced: bool,
}

impl Manner {
    /// OpenAI says `stop` where the request itself named the function, since the call is then no choice of
    /// the model's, and `tool_calls` where the model chose. (For `required` OpenAI began with `stop`; the
    /// servers that clients meet besides it say `tool_calls`, and so do we.)
    fn reason(self, finish: Finish) -> &'static str {
        match finish {
            Finish::ToolCalls if self.forced => Finish::Stop.as_str(),
            Finish::ToolCalls if self.legacy => "function_call",
            Finish::ToolCalls | Finish::Stop | Finish::Length | Finish::ContentFilter => {
                finish.as_str()
            }
        }
    }
}

/// What every part of one answer says.
pub(super) struct Chat {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) fingerprint: String,
    /// Where the request named one.
    pub(super) tier: Option<&'static str>,
    pub(super) manner: Manner,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreateChatCompletionResponse)]
pub(in crate::api) struct Completion {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<WholeChoice>,
    usage: WireUsage,
    system_fingerprint: String,
    /// The one that it ran in, where the request named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatChoice)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatCompletionResponseMessage)]
struct Message {
    role: &'static str,
    /// Null where there are calls and nothing besides.
    content: Option<String>,
    /// What the model thought before it answered. Not OpenAI's: named as DeepSeek's API and other servers do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Called>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ToolCall)]
struct Call {
    id: String,
    r#type: &'static str,
    function: Called,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CalledFunctionOfAnswer)]
struct Called {
    name: String,
    arguments: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreateChatCompletionStreamResponse)]
pub(in crate::api) struct Chunk {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    system_fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    choices: Vec<ChunkChoice>,
    /// Null on every chunk but the last, and not there at all where it wasn't asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WireUsage>)]
    usage: Option<Option<WireUsage>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatChunkChoice)]
struct ChunkChoice {
    index: u32,
    delta: ChunkDelta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default, ToSchema)]
#[schema(as = ChatChunkDelta)]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChunkCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<ChunkCalled>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ToolCallChunk)]
struct ChunkCall {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: ChunkCalled,
}

#[derive(Serialize, Default, ToSchema)]
#[schema(as = CalledFunctionChunk)]
struct ChunkCalled {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Chat {
    pub(super) fn completion(self, whole: Whole) -> Completion {
        let manner = self.manner;
        let choice = |(index, choice): (usize, Choice)| WholeChoice {
            index,
            logprobs: Logprobs::new(manner.asks_logprobs, choice.logprobs),
            finish_reason: manner.reason(choice.finish),
            message: Message {
                reasoning_content: filled(choice.thought),
                ..message(choice.text, choice.calls, manner.legacy)
            },
        };
        Completion {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices: whole.choices.into_iter().enumerate().map(choice).collect(),
            usage: whole.usage.into(),
            system_fingerprint: self.fingerprint,
            service_tier: self.tier,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<WireUsage>) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            service_tier: self.tier,
            choices,
            usage: self.manner.include_usage.then_some(usage),
        }
    }

    fn choice(&self, choice: ChunkChoice) -> Chunk {
        self.chunk(vec![choice], None)
    }
}

impl ChunkChoice {
    fn new(index: u32, delta: ChunkDelta) -> Self {
        Self {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
        }
    }
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn message(text: String, calls: Vec<ToolCall>, legacy: bool) -> Message {
    let content = (calls.is_empty() || !text.is_empty()).then_some(text);
    let mut calls = calls.into_iter().map(|call| Call {
        id: call.id,
        r#type: "function",
        function: Called {
            name: call.name,
            arguments: call.arguments,
        },
    });
    let function_call = if legacy { calls.next() } else { None };
    Message {
        role: "assistant",
        content,
        reasoning_content: None,
        refusal: None,
        tool_calls: if legacy { Vec::new() } else { calls.collect() },
        function_call: function_call.map(|call| call.function),
    }
}

impl From<CallDelta> for ChunkCall {
    fn from(call: CallDelta) -> Self {
        let opens = call.opens.is_some();
        let (id, name) = call.opens.unzip();
        Self {
            index: call.index,
            id,
            r#type: opens.then_some("function"),
            function: ChunkCalled {
                name,
                arguments: call.arguments,
            },
        }
    }
}

impl Shape for Chat {
    type Chunk = Chunk;

    fn first(&self, choice: u32) -> Option<Chunk> {
        let delta = ChunkDelta {
            role: Some("assistant"),
            content: Some(String::new()),
            ..ChunkDelta::default()
        };
        Some(self.choice(ChunkChoice::new(choice, delta)))
    }

    fn delta(&mut self, delta: Delta) -> Chunk {
        let says_more = !delta.calls.is_empty() || !delta.thought.is_empty();
        let content = (!says_more || !delta.text.is_empty()).then_some(delta.text);
        let reasoning_content = filled(delta.thought);
        let mut calls = delta.calls.into_iter().map(ChunkCall::from);
        let shown = if self.manner.legacy {
            ChunkDelta {
                content,
                reasoning_content,
                function_call: calls.find(|call| call.index == 0).map(|call| call.function),
                ..ChunkDelta::default()
            }
        } else {
            ChunkDelta {
                content,
                reasoning_content,
                tool_calls: calls.collect(),
                ..ChunkDelta::default()
            }
        };
        self.choice(ChunkChoice {
            logprobs: Logprobs::new(self.manner.asks_logprobs, delta.logprobs),
            ..ChunkChoice::new(delta.choice, shown)
        })
    }

    fn finish(&self, choice: u32, finish: Finish) -> Chunk {
        self.choice(ChunkChoice {
            finish_reason: Some(self.manner.reason(finish)),
            ..ChunkChoice::new(choice, ChunkDelta::default())
        })
    }

    fn usage(&self, usage: Usage) -> Option<Chunk> {
        self.manner
            .include_usage
            .then(|| self.chunk(Vec::new(), Some(usage.into())))
    }
}
