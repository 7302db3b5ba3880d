//! Where servers of OpenAI's API differ, in one table.

use crate::types::Dialect;

/// What is to be known of one kind of server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// A GET that is answered with 200 when the server can be asked.
    pub(super) health: &'static str,
    /// Any answer to it but 5xx will do: it is no health check, but all that there is.
    pub(super) health_is_lenient: bool,
    /// Of its Prometheus metrics, those whose sum is the number of requests that wait inside it.
    pub(super) waiting: &'static [&'static str],
    /// It can tell in each frame of a stream what was used until then.
    pub(super) continuous_usage: bool,
    /// Asked to go on with an unfinished answer, which is the last message, it wants to be told so by this.
    pub(super) resume: &'static str,
    /// It takes a `service_tier` as a class: what the gateway made of it is told.
    pub(super) tiers: bool,
    /// It looks only now and then whether whoever waits for a whole answer is still there: it is asked for a stream, which
    /// it stops at once.
    pub(super) only_streams: bool,
    /// How it tells its tokens, where it does.
    pub(super) tokenizer: Option<Tokenizer>,
    /// It keeps prompts' states apart by this field's value.
    pub(super) cache_salt: Option<&'static str>,
}

/// How a server is asked for its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tokenizer {
    /// As vLLM has it, under this beginning of the path.
    Vllm(&'static [&'static str; 2]),
    /// As llama.cpp's server has it.
    LlamaServer,
}

impl Tokenizer {
    pub(super) fn tokenize(self) -> &'static str {
        match self {
            Self::Vllm([tokenize, _]) => tokenize,
            Self::LlamaServer => "/tokenize",
        }
    }

    pub(super) fn detokenize(self) -> &'static str {
        match self {
            Self::Vllm([_, detokenize]) => detokenize,
            Self::LlamaServer => "/detokenize",
        }
    }
}

const VLLM: Option<Tokenizer> = Some(Tokenizer::Vllm(&["/tokenize", "/detokenize"]));

const PLAIN: Traits = Traits {
    health: "/health",
    health_is_lenient: false,
    waiting: &[],
    continuous_usage: false,
    cache_salt: None,
    resume: "",
    tiers: false,
    only_streams: false,
    tokenizer: None,
};

/// By the kind of server.
pub(super) fn traits(dialect: Dialect) -> Traits {
    match dialect {
        Dialect::Openai => Traits {
            health: "/v1/models",
            health_is_lenient: true,
            ..PLAIN
        },
        Dialect::Vllm => Traits {
            waiting: &["vllm:num_requests_waiting"],
            tokenizer: VLLM,
            continuous_usage: true,
            cache_salt: Some("cache_salt"),
            resume: r#","continue_final_message":true,"add_generation_prompt":false"#,
            ..PLAIN
        },
        Dialect::Sglang => Traits {
            waiting: &["sglang:num_queue_reqs"],
            tokenizer: VLLM,
            resume: r#","continue_final_message":true"#,
            ..PLAIN
        },
        Dialect::Tgi => Traits {
            waiting: &["tgi_queue_size"],
            ..PLAIN
        },
        // It goes on with a last message of the assistant by itself.
        Dialect::LlamaServer => Traits {
            waiting: &["llamacpp:requests_deferred"],
            only_streams: true,
            tokenizer: Some(Tokenizer::LlamaServer),
            ..PLAIN
        },
        Dialect::Forebay => Traits {
            health: "/ready",
            tiers: true,
            tokenizer: Some(Tokenizer::Vllm(&["/v1/tokenize", "/v1/detokenize"])),
            waiting: &["forebay_queue_depth"],
            ..PLAIN
        },
    }
}
