use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memchr::memmem::Finder;

use super::Endpoint;

/// A request in the client's own words, for workers that speak them: it is passed on without being taken apart.
#[derive(Clone)]
pub struct Relay {
    /// The door it came in by, which is the worker's door as well.
    pub endpoint: Endpoint,
    /// A JSON object, as it came.
    pub body: Bytes,
    /// Where its fields stand, in their order. None stands twice.
    pub fields: Arc<[Field]>,
    /// Whether the answer comes as a stream.
    pub streams: bool,
    /// Whether a stream is to end with what it took.
    pub include_usage: bool,
}

/// Where a field stands in its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value, a JSON text.
    pub value: Range<usize>,
}

/// A picture of usual size. Models take from 85 to some 1,500 tokens for one, whatever its bytes.
const TOKENS_PER_PICTURE: u64 = 1000;
/// How its bytes begin.
static PICTURE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"data:image"));

impl Relay {
    /// Tokens that the prompt may have, where nobody has counted them. Pictures that come as `data:` URLs are counted,
    /// not measured.
    #[must_use]
    pub fn guess_prompt(&self, bytes_per_token: u64) -> u64 {
        let (mut pictures, mut their_bytes) = (0, 0);
        for start in PICTURE.find_iter(&self.body) {
            // The slash behind it may be written as `\/`. In a text the quotes of such a field would have backslashes.
            let before = self.body[..start].trim_ascii_end();
            let before = before.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
            if before.is_some_and(|before| before.ends_with(b"\"url\"")) {
                let url = &self.body[start + 1..];
                pictures += 1;
                their_bytes += memchr::memchr(b'"', url).unwrap_or(url.len()) as u64;
            }
        }
        let rest = (self.body.len() as u64).saturating_sub(their_bytes);
        rest.div_ceil(bytes_per_token) + pictures * TOKENS_PER_PICTURE
    }

    /// The value of a field, a JSON text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        self.body.get(field.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(body: &str) -> u64 {
        let relay = Relay {
            endpoint: Endpoint::Chat,
            body: Bytes::copy_from_slice(body.as_bytes()),
            fields: Arc::default(),
            streams: false,
            include_usage: false,
        };
        relay.guess_prompt(4)
    }

    #[test]
    fn a_picture_counts_as_one_however_large_it_is_and_no_text_passes_for_one() {
        let picture = "A".repeat(100_000);
        for kind in ["/png", r"\/png"] {
            let asked = |url: &str| {
                format!(r#"{{"image_url":{{"url" : "data:image{kind};base64,{url}"}}}}"#)
            };
            let (small, large) = (guess(&asked("")), guess(&asked(&picture)));
            assert!((1000..1030).contains(&small), "{small}");
            assert!(large <= small + 1, "{small}, {large}");
        }
        for text in ["data:image/", r#"\"url\":\"data:image/"#] {
            let text = format!(r#"{{"content":"{text}{picture}"}}"#);
            assert!(guess(&text) >= 25_000, "{}", &text[..40]);
        }
    }
}
