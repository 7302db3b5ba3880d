use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use super::super::constrain::Grammars;
use super::super::prompt::{Piece, Prompts};
use super::window::cuttable_tokens;
use crate::types::{Failure, Prompt, Thinking, Thoughts, Tokenize, Tokenized, ToolFormat};

/// A conversation without a template of the model's own: the ChatML form, which most instruct models know.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Tokens at a prompt's end among which the mark of thoughts that it opens is looked for.
const MARK_TOKENS: usize = 8;

/// Loaded weights with their tokenizer and chat template.
pub(super) struct Model {
    pub(super) weights: LlamaModel,
    /// Tokens that one sequence may have.
    pub(super) context_tokens: u32,
    prompts: Prompts,
    /// Whether it may think before it answers.
    thinks: bool,
    /// What the control pieces of a prompt stand for.
    control: Vec<LlamaToken>,
    /// Bytes of the longest token.
    longest_token: usize,
    /// Tokens that end an answer; the usual one first.
    ends: Vec<LlamaToken>,
    /// Made when the first answer is constrained.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Model {
    /// Reads a GGUF file. `context_tokens` is cut to what the model was trained for. Without a tool format the
    /// chat template tells it.
    ///
    /// # Errors
    /// One line that says what is wrong with the file.
    pub(super) fn load(
        path: &Path,
        context_tokens: u32,
        tool_format: Option<ToolFormat>,
        thinks: Option<bool>,
    ) -> Result<Self, String> {
        check_file(path)?;
        let weights = LlamaModel::load_from_file(backend()?, path, &LlamaModelParams::default())
            .map_err(|error| format!("{}: llama.cpp can't load it: {error}", path.display()))?;
        let trained = weights.n_ctx_train();
        let (control, texts) = control_tokens(&weights);
        let template = weights
            .meta_val_str("tokenizer.chat_template")
            .unwrap_or_else(|_| CHATML.to_owned());
        let thinks = thinks.unwrap_or_else(|| Thoughts::are_known_to(&template));
        let prompts = {
            let vocab = weights.vocab();
            let text = |token| {
                String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned()
            };
            Prompts::new(template, &texts, text(vocab.bos()), text(vocab.eos()))
        }
        .map_err(|error| format!("{}: {error}", path.display()))?;
        let prompts = match tool_format {
            Some(format) => prompts.with_tool_format(format),
            None => prompts,
        };
        if context_tokens > trained {
            tracing::warn!(
                context_tokens,
                trained,
                "the context is cut to what the model was trained for"
            );
        }
        Ok(Self {
            context_tokens: context_tokens.min(trained),
            longest_token: longest_token(&weights),
            ends: ends(&weights),
            grammars: OnceLock::new(),
            weights,
            prompts,
            thinks,
            control,
        })
    }

    /// The tokens of a prompt, which fit the context with room for one more.
    ///
    /// # Errors
    /// The template refuses it, it is empty, or it doesn't fit.
    pub(super) fn prepare(&self, prompt: &Prompt) -> Result<Vec<LlamaToken>, Failure> {
        let tokens = self.taken_apart(prompt, true)?;
        if tokens.is_empty() {
            return Err(Failure::Invalid {
                param: Some("prompt".into()),
                message: "the prompt has no tokens".into(),
            });
        }
        if tokens.len() >= self.context_tokens as usize {
            return Err(self.too_long(prompt, tokens.len()));
        }
        Ok(tokens)
    }

    /// Where in a prompt of these tokens the answer begins that it holds already; a text is all answer.
    pub(super) fn answer_from(&self, prompt: &Prompt, tokens: &[LlamaToken]) -> usize {
        let Prompt::Chat(chat) = prompt else {
            return 0;
        };
        let mut opening = Vec::new();
        self.tokenize(chat.opening.as_deref().unwrap_or_default(), &mut opening);
        tokens.len().saturating_sub(opening.len())
    }

    /// A prompt's tokens, with their texts where they are asked for.
    ///
    /// # Errors
    /// The template refuses it, or it is longer than any prompt that fits.
    pub(super) fn tokenized(&self, ask: &Tokenize) -> Result<Tokenized, Failure> {
        let tokens = self.taken_apart(&ask.prompt, ask.special)?;
        let text = |token: &LlamaToken| {
            let piece = self.weights.vocab().token_to_piece(*token, true, None);
            String::from_utf8_lossy(&piece).into_owned()
        };
        Ok(Tokenized {
            texts: ask.texts.then(|| tokens.iter().map(text).collect()),
            tokens: tokens.iter().map(|token| token.0.cast_unsigned()).collect(),
            context: Some(self.context_tokens),
        })
    }

    /// The text that tokens stand for, control tokens included.
    ///
    /// # Errors
    /// There is no such token, or there are more than any prompt has.
    pub(super) fn text_of(&self, ids: &[u32]) -> Result<String, Failure> {
        if ids.len() > self.context_tokens as usize {
            return Err(Failure::ContextLength {
                context: self.context_tokens,
                prompt: u32::try_from(ids.len()).unwrap_or(u32::MAX),
                param: "tokens".into(),
            });
        }
        let mut bytes = Vec::new();
        for id in ids {
            let token = self.token(*id).map_err(|_| Failure::Invalid {
                param: Some("tokens".into()),
                message: format!("the model's vocabulary has no token {id}"),
            })?;
            bytes.extend(self.weights.vocab().token_to_piece(token, true, None));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn taken_apart(&self, prompt: &Prompt, special: bool) -> Result<Vec<LlamaToken>, Failure> {
        let vocab = self.weights.vocab();
        let mut tokens = Vec::new();
        match prompt {
            Prompt::Text(text) => {
                self.refuse_endless(prompt, text.len())?;
                self.tokenize(text, &mut tokens);
            }
            Prompt::Tokens(ids) => {
                self.refuse_endless(prompt, ids.len().saturating_mul(self.longest_token))?;
                for id in ids {
                    tokens.push(self.token(*id)?);
                }
            }
            Prompt::Chat(chat) => {
                let pieces = self.prompts.chat(chat)?;
                let bytes = pieces.iter().map(Piece::bytes).sum();
                self.refuse_endless(prompt, bytes)?;
                for piece in pieces {
                    match piece {
                        Piece::Control(index) => tokens.push(self.control[index]),
                        Piece::Text(text) => self.tokenize(&text, &mut tokens),
                    }
                }
                if let Some(opening) = &chat.opening {
                    self.refuse_endless(prompt, bytes + opening.len())?;
                    self.tokenize(opening, &mut tokens);
                }
            }
        }
        let bare = match prompt {
            Prompt::Tokens(_) => false,
            Prompt::Text(_) => special,
            Prompt::Chat(_) => true,
        };
        if bare && vocab.should_add_bos() && tokens.first() != Some(&vocab.bos()) {
            tokens.insert(0, vocab.bos());
        }
        Ok(tokens)
    }

    fn token(&self, id: u32) -> Result<LlamaToken, Failure> {
        i32::try_from(id)
            .ok()
            .filter(|id| *id < self.weights.vocab().n_tokens())
            .map(LlamaToken::new)
            .ok_or_else(|| Failure::Invalid {
                param: Some("prompt".into()),
                message: format!("the model's vocabulary has no token {id}"),
            })
    }

    /// What makes answers follow a grammar.
    ///
    /// # Errors
    /// The vocabulary can't be used for that.
    pub(super) fn grammars(&self) -> Result<&Grammars, Failure> {
        let made = self.grammars.get_or_init(|| {
            let vocab = self.weights.vocab();
            let tokens = (0..vocab.n_tokens())
                .map(|id| self.bytes(LlamaToken::new(id)))
                .collect();
            let ends: Vec<_> = self.ends.iter().map(|end| end.0.cast_unsigned()).collect();
            Grammars::new(tokens, &ends)
        });
        made.as_ref()
            .map_err(|reason| Failure::Broken(reason.clone()))
    }

    /// Makes it impossible that the answer ends with the next token; where nothing else may follow, it does end.
    pub(super) fn forbid_ends(&self, logits: &mut [f32]) {
        let ends = self.ends.iter().filter_map(|end| {
            let index = usize::try_from(end.0).ok()?;
            Some((index, *logits.get(index)?))
        });
        let ends: Vec<_> = ends.collect();
        for (index, _) in &ends {
            logits[*index] = f32::NEG_INFINITY;
        }
        if !logits.iter().any(|logit| *logit > f32::NEG_INFINITY) {
            for (index, logit) in ends {
                logits[index] = logit;
            }
        }
    }

    /// Tokens that a sequence's state may have so that it can be cut at any of them.
    pub(super) fn cuttable_tokens(&self) -> usize {
        cuttable_tokens(&self.weights)
    }

    /// Refuses by its bytes what can't fit whatever its tokens are: tokenising megabytes takes seconds, and
    /// gigabytes of memory where a text has no spaces.
    fn refuse_endless(&self, prompt: &Prompt, bytes: usize) -> Result<(), Failure> {
        let at_least = bytes / self.longest_token;
        if at_least > self.context_tokens as usize {
            return Err(self.too_long(prompt, at_least));
        }
        Ok(())
    }

    fn too_long(&self, prompt: &Prompt, tokens: usize) -> Failure {
        Failure::ContextLength {
            context: self.context_tokens,
            prompt: u32::try_from(tokens).unwrap_or(u32::MAX),
            param: match prompt {
                Prompt::Text(_) | Prompt::Tokens(_) => "prompt".into(),
                Prompt::Chat(_) => "messages".into(),
            },
        }
    }

    /// As plain text: what spells a control token stays text.
    fn tokenize(&self, text: &str, tokens: &mut Vec<LlamaToken>) {
        // With room for a token a byte, which is the most there can be, one pass is enough.
        tokens.reserve(text.len() + 1);
        let vocab = self.weights.vocab();
        vocab.tokenize_into(text.as_bytes(), tokens, false, false);
    }

    /// A token's bytes as the answer shows them: none for control tokens.
    pub(super) fn bytes(&self, token: LlamaToken) -> Vec<u8> {
        self.weights.vocab().token_to_piece(token, false, None)
    }

    /// How the model spells calls.
    pub(super) fn tool_format(&self) -> ToolFormat {
        self.prompts.tool_format()
    }

    /// Whether calls that it makes of itself can be held to a grammar: it thinks of none before it makes one, and spells them
    /// by text, which is all that grammars know.
    pub(super) fn calls_can_be_held(&self, thinking: &Thinking) -> bool {
        let format = self.tool_format();
        let spells = |token: &LlamaToken| {
            let name = self.name(*token);
            std::str::from_utf8(&name).is_ok_and(|name| format.spells(name))
        };
        let thinks = self.thinks && *thinking != Thinking::Off;
        !thinks && !self.control.iter().any(spells)
    }

    /// What finds thoughts in an answer to this prompt.
    pub(super) fn thoughts_after(&self, prompt: &[LlamaToken]) -> Option<Thoughts> {
        let end = prompt.len().saturating_sub(MARK_TOKENS);
        let end: Vec<u8> = prompt[end..]
            .iter()
            .flat_map(|token| self.name(*token))
            .collect();
        let opened = Thoughts::are_open_after(&String::from_utf8_lossy(&end));
        self.thinks.then(|| Thoughts::new(opened))
    }

    /// As [`Model::bytes`], with the control tokens that calls and thoughts are spelled with.
    pub(super) fn bytes_with(&self, token: LlamaToken, calls: bool, thoughts: bool) -> Vec<u8> {
        let bytes = self.bytes(token);
        if !bytes.is_empty() || !(calls || thoughts) {
            return bytes;
        }
        let name = self.name(token);
        let spells = std::str::from_utf8(&name).is_ok_and(|name| {
            calls && self.tool_format().spells(name) || thoughts && Thoughts::spells(name)
        });
        if spells { name } else { bytes }
    }

    /// The bytes of any token, control tokens included.
    pub(super) fn name(&self, token: LlamaToken) -> Vec<u8> {
        self.weights.vocab().token_to_piece(token, true, None)
    }
}

/// The tokens that end an answer; the usual one first.
fn ends(weights: &LlamaModel) -> Vec<LlamaToken> {
    let vocab = weights.vocab();
    let usual = vocab.eos();
    let others = (0..vocab.n_tokens())
        .map(LlamaToken::new)
        .filter(|token| *token != usual && vocab.is_eog(*token));
    std::iter::once(usual).chain(others).collect()
}

fn longest_token(weights: &LlamaModel) -> usize {
    let vocab = weights.vocab();
    (0..vocab.n_tokens())
        .map(|id| vocab.token_to_piece(LlamaToken::new(id), true, None).len())
        .max()
        .unwrap_or(1)
        .max(1)
}

/// Control tokens and how a template spells them. One of a single character could not be broken up in a
/// message, so it is left to be text everywhere.
fn control_tokens(weights: &LlamaModel) -> (Vec<LlamaToken>, Vec<String>) {
    let vocab = weights.vocab();
    (0..vocab.n_tokens())
        .map(LlamaToken::new)
        .filter(|token| vocab.is_control(*token))
        .filter_map(|token| {
            let text = vocab.text(token)?.to_str().ok()?.to_owned();
            (text.chars().count() > 1).then_some((token, text))
        })
        .unzip()
}

/// What llama.cpp would answer with an assertion or a null pointer is told apart before.
pub(super) fn check_file(path: &Path) -> Result<(), String> {
    use std::io::Read;

    let mut magic = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if &magic != b"GGUF" {
        return Err(format!("{} is no GGUF file", path.display()));
    }
    Ok(())
}

/// llama.cpp's process-wide state, made once and never undone.
pub(super) fn backend() -> Result<&'static LlamaBackend, String> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
            LlamaBackend::init().map_err(|error| format!("llama.cpp can't start: {error}"))
        })
        .as_ref()
        .map_err(Clone::clone)
}
