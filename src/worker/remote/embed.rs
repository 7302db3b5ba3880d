//! Embeddings by a remote worker. Vectors are read as numbers: it depends on the client in what form they go out.

use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};

use super::{Remote, refusal};
use crate::types::{Embed, EmbedJob, Embedded, Endpoint, Failure, Input, Progress};

/// 2,048 vectors of 8,192 numbers, written out.
const LONGEST: usize = 512 << 20;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: Inputs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
    encoding_format: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Inputs<'a> {
    Texts(Vec<&'a str>),
    Tokens(Vec<&'a [u32]>),
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Row>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Row {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
}

impl<'a> Inputs<'a> {
    /// OpenAI's API takes either texts or token ids in one request.
    fn of(request: &'a Embed) -> Option<Self> {
        let texts = request.inputs.iter().map(|input| match input {
            Input::Text(text) => Some(text.as_str()),
            Input::Tokens(_) => None,
        });
        let tokens = request.inputs.iter().map(|input| match input {
            Input::Tokens(tokens) => Some(tokens.as_slice()),
            Input::Text(_) => None,
        });
        let texts: Option<Vec<_>> = texts.collect();
        texts
            .map(Inputs::Texts)
            .or_else(|| tokens.collect::<Option<_>>().map(Inputs::Tokens))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.iter().map(|text| text.len()).sum(),
            Self::Tokens(tokens) => tokens.iter().map(|tokens| 4 * tokens.len()).sum(),
        }
    }
}

impl Remote {
    pub(super) async fn embeddings(
        &self,
        job: &EmbedJob,
        progress: &Progress,
    ) -> Result<Embedded, Failure> {
        let garbled = || Failure::Broken("it sent what are no embeddings".into());
        let input = Inputs::of(&job.request).ok_or_else(|| Failure::Invalid {
            param: Some("input".into()),
            message: "input must be texts or token ids, not both".into(),
        })?;
        let guess = u32::try_from(input.bytes() / 4).unwrap_or(u32::MAX).max(1);
        let request = Request {
            model: &job.model,
            input,
            dimensions: job.request.dimensions,
            encoding_format: "float",
        };
        let body = serde_json::to_vec(&request).map_err(|_| garbled())?;
        progress.guess(true);
        progress.start(guess);
        let reading = async {
            let path = Endpoint::Embeddings.path();
            let response = self
                .send(path, body, self.timeouts.answer, progress)
                .await?;
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            Ok(body.map_err(|_| refusal::broke_off())?.to_bytes())
        };
        let body = tokio::time::timeout(self.timeouts.answer, reading)
            .await
            .map_err(|_| Failure::Broken("its answer did not come in time".into()))??;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| garbled())?;
        let mut vectors = vec![None; job.request.inputs.len()];
        for row in answer.data {
            *vectors.get_mut(row.index).ok_or_else(garbled)? = Some(row.embedding);
        }
        if answer.usage.is_some() {
            progress.guess(false);
        }
        Ok(Embedded {
            vectors: vectors
                .into_iter()
                .collect::<Option<_>>()
                .ok_or_else(garbled)?,
            prompt_tokens: answer.usage.map_or(guess, |usage| usage.prompt_tokens),
        })
    }
}
