//! Tokens as a server's own tokenizer has them. There is no such endpoint in OpenAI's API; each kind of server has its own.

use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::dialect::Tokenizer;
use super::{Remote, refusal};
use crate::types::{Failure, Progress, Prompt, Tokenize, Tokenized};

/// Ids of a prompt that is as long as prompts get.
const LONGEST: usize = 32 << 20;

#[derive(Deserialize)]
struct Answer {
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
    max_model_len: Option<u32>,
}

#[derive(Deserialize)]
struct Applied {
    prompt: String,
}

/// vLLM calls it a prompt, llama.cpp's server content.
#[derive(Deserialize)]
struct Text {
    #[serde(alias = "content")]
    prompt: String,
}

impl Remote {
    pub(super) async fn tokens(&self, model: &str, ask: Tokenize) -> Result<Tokenized, Failure> {
        let tokenizer = self.tokenizer()?;
        let body = match tokenizer {
            Tokenizer::Vllm(_) => {
                let mut words = ask.words;
                words.insert("model".into(), model.into());
                Value::Object(words)
            }
            Tokenizer::LlamaServer => {
                let content = match ask.prompt {
                    Prompt::Text(text) => text,
                    Prompt::Chat(_) | Prompt::Tokens(_) => {
                        let words = Value::Object(ask.words);
                        self.told::<Applied>("/apply-template", &words)
                            .await?
                            .prompt
                    }
                };
                json!({"content": content, "add_special": ask.special})
            }
        };
        let answer: Answer = self.told(tokenizer.tokenize(), &body).await?;
        Ok(Tokenized {
            tokens: answer.tokens,
            texts: answer.token_strs.filter(|_| ask.texts),
            context: answer.max_model_len,
        })
    }

    pub(super) async fn text_of(&self, model: &str, tokens: &[u32]) -> Result<String, Failure> {
        let tokenizer = self.tokenizer()?;
        let body = json!({"model": model, "tokens": tokens});
        let text: Text = self.told(tokenizer.detokenize(), &body).await?;
        Ok(text.prompt)
    }

    fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        self.traits.tokenizer.ok_or_else(|| Failure::Invalid {
            param: Some("model".into()),
            message: "the server that runs this model doesn't tell its tokens".into(),
        })
    }

    async fn told<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        let limit = self.timeouts.answer;
        let reading = async {
            let body = body.to_string().into_bytes();
            let response = self.send(path, body, limit, &Progress::default()).await?;
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            Ok(body.map_err(|_| refusal::broke_off())?.to_bytes())
        };
        let body = tokio::time::timeout(limit, reading)
            .await
            .map_err(|_| Failure::Broken("its answer did not come in time".into()))??;
        serde_json::from_slice(&body)
            .map_err(|_| Failure::Broken("it sent what are no tokens".into()))
    }
}
