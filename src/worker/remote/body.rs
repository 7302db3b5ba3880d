//! The body that goes to a worker: the client's own, but for what is the gateway's to say.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::dialect::Traits;
use crate::types::{Class, Endpoint, Job, ProjectId, Relay};

/// What no client says for itself, since it would act on what is others'.
const OURS: [&str; 6] = [
    "model",
    "stream_options",
    "cache_salt",
    "priority",
    "service_tier",
    // Of llama.cpp's server, where it goes before `max_tokens`.
    "n_predict",
];
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// The body of a request, whose answer comes as a stream or as a whole.
pub(super) fn outgoing(job: &Job, relay: &Relay, traits: &Traits, streams: bool) -> Vec<u8> {
    let mut body = Object::with_capacity(relay.body.len() + 256);
    body.field("model", &text(&job.model));
    let spent = job.resume.as_ref().map_or(0, |resume| resume.tokens);
    // A budget may have made it less than was asked for; whoever goes on with an answer has something left.
    let limit = job.request.max_tokens;
    let least = u32::from(job.resume.is_some());
    let limit = limit.map(|limit| limit.saturating_sub(spent).max(least));
    // Under the name that the client used, where that is one of this endpoint's.
    let mut limit_name = match relay.endpoint {
        Endpoint::Chat => "max_completion_tokens",
        Endpoint::Completions | Endpoint::Embeddings => "max_tokens",
    };
    for field in relay.fields.iter() {
        let name = field.name.as_str();
        if OURS.contains(&name) || name == "stream" && streams && !relay.streams {
            continue;
        }
        match &job.resume {
            Some(resume) if name == "messages" => {
                let messages = relay.body.get(field.value.clone()).unwrap_or(b"[]");
                body.field(name, &going_on(messages, &resume.text));
            }
            _ if LIMITS.contains(&name) => {
                if relay.endpoint == Endpoint::Chat && name == "max_tokens" {
                    limit_name = "max_tokens";
                }
            }
            _ => body.field(name, relay.body.get(field.value.clone()).unwrap_or(b"null")),
        }
    }
    if let Some(limit) = limit {
        body.field(limit_name, limit.to_string().as_bytes());
    }
    if streams && !relay.streams {
        body.field("stream", b"true");
    }
    if streams {
        let options: &[u8] = if traits.continuous_usage {
            br#"{"include_usage":true,"continuous_usage_stats":true}"#
        } else {
            br#"{"include_usage":true}"#
        };
        body.field("stream_options", options);
    }
    if traits.tiers {
        let tier = match job.class {
            Class::Interactive => "priority",
            Class::Standard => "default",
            Class::Batch => "flex",
        };
        body.field("service_tier", &text(tier));
    }
    if job.resume.is_some() {
        body.raw(traits.resume);
    }
    if let Some(name) = traits.cache_salt {
        body.field(name, format!("\"{:016x}\"", salt(&job.tenant)).as_bytes());
    }
    body.end()
}

/// The same for each request of a tenant, and of nobody else.
fn salt(tenant: &ProjectId) -> u64 {
    let mut hasher = DefaultHasher::new();
    tenant.hash(&mut hasher);
    hasher.finish()
}

/// The messages with the begin of the answer behind them.
fn going_on(messages: &[u8], begun: &str) -> Vec<u8> {
    let mut all = messages.trim_ascii_end().to_vec();
    all.pop();
    if all.trim_ascii() != b"[" {
        all.push(b',');
    }
    all.extend_from_slice(br#"{"role":"assistant","content":"#);
    all.extend_from_slice(&text(begun));
    all.extend_from_slice(b"}]");
    all
}

/// A JSON text of a string.
pub(super) fn text(text: &str) -> Vec<u8> {
    // Strings always serialise.
    serde_json::to_vec(text).unwrap_or_default()
}

/// A JSON object that is being written.
struct Object(Vec<u8>);

impl Object {
    fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(b'{');
        Self(bytes)
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(&text(name));
        self.0.push(b':');
        self.0.extend_from_slice(value);
    }

    /// Fields that are written already, with a comma before them.
    fn raw(&mut self, fields: &str) {
        self.0.extend_from_slice(fields.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::{Dialect, Field, Generate, Resume};
    use crate::worker::remote::dialect::traits;

    fn sent(
        json: &'static str,
        streams: bool,
        max_tokens: Option<u32>,
        dialect: Dialect,
    ) -> String {
        sent_on(json, streams, max_tokens, dialect, None)
    }

    fn sent_on(
        json: &'static str,
        streams: bool,
        max_tokens: Option<u32>,
        dialect: Dialect,
        resume: Option<Resume>,
    ) -> String {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json).unwrap();
        let mut from = 0;
        let place = |name: &String| {
            let value = json[from..].find(&format!("\"{name}\":")).unwrap() + from + name.len() + 3;
            let mut read =
                serde_json::Deserializer::from_str(&json[value..]).into_iter::<serde_json::Value>();
            read.next().unwrap().unwrap();
            from = value + read.byte_offset();
            Field {
                name: name.clone(),
                value: value..from,
            }
        };
        let relay = Relay {
            endpoint: Endpoint::Chat,
            body: json.into(),
            fields: fields.keys().map(place).collect(),
            streams,
            include_usage: false,
        };
        let job = Job {
            request: Arc::new(Generate {
                max_tokens,
                ..Generate::default()
            }),
            model: "Org/Model".into(),
            asked: "legal".into(),
            id: "chatcmpl-1".into(),
            resumable: false,
            resume,
            tenant: "proj_a".into(),
            class: Class::Standard,
            adapter: None,
            preface: None,
        };
        String::from_utf8(outgoing(&job, &relay, &traits(dialect), streams)).unwrap()
    }

    #[test]
    fn the_client_s_words_go_on_but_for_what_is_ours() {
        let json = r#"{"model":"legal","messages":[{"role":"user","content":"水 \u0041"}],"priority":-9,"cache_salt":"theirs","guided_regex":"a+"}"#;
        assert_eq!(
            sent(json, false, None, Dialect::Openai),
            r#"{"model":"Org/Model","messages":[{"role":"user","content":"水 \u0041"}],"guided_regex":"a+"}"#
        );
    }

    #[test]
    fn usage_is_always_asked_for() {
        let json = r#"{"model":"legal","stream":true,"stream_options":{"include_usage":false}}"#;
        assert_eq!(
            sent(json, true, None, Dialect::Openai),
            r#"{"model":"Org/Model","stream":true,"stream_options":{"include_usage":true}}"#
        );
        let to_vllm = sent(json, true, None, Dialect::Vllm);
        assert!(to_vllm.contains(r#""continuous_usage_stats":true"#));
        assert!(to_vllm.contains(r#""cache_salt":""#));
    }

    #[test]
    fn another_goes_on_with_the_begin_of_an_answer() {
        let json =
            r#"{"model":"legal","messages":[{"role":"user","content":"hi"}],"max_tokens":10}"#;
        let begun = || {
            Some(Resume {
                text: "a \"b".into(),
                tokens: 4,
            })
        };
        let messages = r#""messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"a \"b"}],"max_tokens":6"#;
        assert_eq!(
            sent_on(json, false, Some(10), Dialect::LlamaServer, begun()),
            format!(r#"{{"model":"Org/Model",{messages}}}"#)
        );
        let to_vllm = sent_on(json, false, Some(10), Dialect::Vllm, begun());
        assert!(
            to_vllm.contains(&format!(r#"{messages},"continue_final_message":true,"#)),
            "{to_vllm}"
        );
    }

    #[test]
    fn a_budget_cuts_the_answer() {
        let asked = r#"{"model":"legal","max_tokens":500}"#;
        assert_eq!(
            sent(asked, false, Some(20), Dialect::Openai),
            r#"{"model":"Org/Model","max_tokens":20}"#
        );
        assert_eq!(
            sent(r#"{"model":"legal"}"#, false, Some(20), Dialect::Openai),
            r#"{"model":"Org/Model","max_completion_tokens":20}"#
        );
    }
}
