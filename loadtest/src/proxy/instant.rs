//! An upstream that takes no time: what it says was written beforehand. Only of the model [`HELD`] it says one word a second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Tokens of its streams.
pub(super) const TOKENS: usize = 64;
/// The model whose streams stay open.
pub(super) const HELD: &str = "held";

struct Answers {
    /// Some gateways ask for it, and serve nothing else.
    models: Vec<u8>,
    /// What a request says that asks for [`HELD`].
    held: Vec<u8>,
    whole: Vec<u8>,
    /// The head and each frame, as a model server writes them one after another.
    stream: Vec<Vec<u8>>,
}

/// Serves on the loopback interface until it is ended.
pub(crate) async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            // A client that goes is none of its business.
            let _gone = connection(stream, &answers).await;
        });
    }
}

async fn connection(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let length = loop {
            if let Some(length) = request(&buffer) {
                break length;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        if buffer.starts_with(b"GET") {
            stream.write_all(&answers.models).await?;
        } else if memmem::find(&buffer[..length], &answers.held).is_some() {
            for frame in &answers.stream {
                stream.write_all(frame).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } else if memmem::find(&buffer[..length], b"\"stream\":true").is_some() {
            for frame in &answers.stream {
                stream.write_all(frame).await?;
            }
        } else {
            stream.write_all(&answers.whole).await?;
        }
        buffer.drain(..length);
    }
}

/// How long the request is that the bytes begin with, where it is there as a whole.
fn request(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let length = super::client::content_length(&bytes[..head]).unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}

impl Answers {
    fn new() -> Self {
        let body = r#"{"id":"up-1","object":"chat.completion","created":1,"model":"big","choices":[{"index":0,"message":{"role":"assistant","content":"Downhill, to the sea."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19}}"#;
        let json = |body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        let models = r#"{"object":"list","data":[{"id":"big","object":"model","created":1,"owned_by":"bench"}]}"#;
        let chunk = |choices: &str, usage: &str| {
            let json = format!(
                r#"{{"id":"up-1","object":"chat.completion.chunk","created":1,"model":"big","choices":[{choices}]{usage}}}"#
            );
            format!("data: {json}\n\n")
        };
        let framed = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut stream = vec![head.into()];
        let role = r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}"#;
        stream.push(framed(&chunk(role, "")));
        for number in 0..TOKENS {
            let delta =
                format!(r#"{{"index":0,"delta":{{"content":"w{number} "}},"finish_reason":null}}"#);
            stream.push(framed(&chunk(&delta, "")));
        }
        let finish = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;
        stream.push(framed(&chunk(finish, "")));
        let usage = format!(
            r#","usage":{{"prompt_tokens":12,"completion_tokens":{TOKENS},"total_tokens":76}}"#
        );
        stream.push(framed(&chunk("", &usage)));
        stream.push(framed("data: [DONE]\n\n"));
        stream.push(b"0\r\n\r\n".to_vec());
        Self {
            models: json(models),
            held: format!(r#""model":"{HELD}""#).into_bytes(),
            whole: json(body),
            stream,
        }
    }
}
