/// A request to a model, free of any wire format.
#[derive(Clone)]
pub struct Generate {
    /// What the model goes on from.
    pub prompt: Prompt,
    /// At most this many tokens are generated; `None` is as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// Goes on past the model's own end, up to `max_tokens`. For benchmarks.
    pub ignore_eos: bool,
    /// With each token its log-probability and this many alternatives; `None` is neither.
    pub top_logprobs: Option<u8>,
}

/// What a model goes on from.
#[derive(Clone)]
pub enum Prompt {
    /// A conversation, put into the model's own form by its chat template.
    Chat(Vec<Message>),
    /// A text, taken as it is.
    Text(String),
}

/// One turn of a conversation.
#[derive(Clone)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// A name that tells speakers of one role apart, where the template shows it.
    pub name: Option<String>,
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator's instructions; `developer` in newer clients.
    System,
    /// The person who asks.
    User,
    /// The model itself.
    Assistant,
}

impl Role {
    /// The name that chat templates compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// How the next token is chosen from the model's distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 draws from the distribution as it is.
    pub temperature: f32,
    /// Draws from the smallest set of likeliest tokens that has this mass (nucleus sampling,
    /// arXiv 1904.09751).
    pub top_p: f32,
    /// Starts the random numbers; `None` starts them anew each time.
    pub seed: Option<u64>,
}
