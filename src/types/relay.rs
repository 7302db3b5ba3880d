use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

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

impl Relay {
    /// The value of a field, a JSON text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        self.body.get(field.value.clone())
    }
}
