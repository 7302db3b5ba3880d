use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::api::Api;
use crate::api::error::ApiError;

/// A URL's query, of which each parameter is taken out once. Lists come as `name=a&name=b`, as `name[]=a`, or
/// with commas.
pub(super) struct Query(Vec<(String, String)>);

impl FromRequestParts<Arc<Api>> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes()).into_owned();
        let name = |name: String| name.strip_suffix("[]").map_or(name.clone(), str::to_owned);
        Self(pairs.map(|(key, value)| (name(key), value)).collect())
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let mut values = self.all(name);
        values.retain(|value| !value.is_empty());
        values
    }

    /// Empty ones among them.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.0.retain(|(key, value)| {
            if key == name {
                values.extend(value.split(',').map(str::to_owned));
            }
            key != name
        });
        values
    }

    /// An empty one is none.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let word = self.word(name)?;
        Ok(word.filter(|word| !word.is_empty()))
    }

    /// As it is written, be it empty.
    pub(super) fn word(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.all(name);
        if values.len() > 1 {
            let message = format!("{name} is given more than once");
            return Err(ApiError::invalid(Some(name), &message));
        }
        Ok(values.pop())
    }

    pub(super) fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        self.parsed(name, "a whole number")
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.parsed(name, "true or false")
    }

    fn parsed<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.word(name)? else {
            return Ok(None);
        };
        let refuse = |_| {
            let message = format!("{name} must be {what}");
            ApiError::invalid(Some(name), &message)
        };
        text.parse().map(Some).map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_three_forms() {
        let mut query = Query::parse("a=1&a=2&b[]=x&b%5B%5D=y&c=p,q&d=7&e=true");
        assert_eq!(query.list("a"), ["1", "2"]);
        assert_eq!(query.list("b"), ["x", "y"]);
        assert_eq!(query.list("c"), ["p", "q"]);
        assert_eq!(query.number::<u32>("d").unwrap(), Some(7));
        assert_eq!(query.flag("e").unwrap(), Some(true));
        assert_eq!(query.text("none").unwrap(), None);
        assert!(Query::parse("d=x").number::<u32>("d").is_err());
        assert!(Query::parse("d=1&d=2").number::<u32>("d").is_err());
        assert!(Query::parse("d=").number::<u32>("d").is_err());
        assert_eq!(Query::parse("d=").text("d").unwrap(), None);
        assert_eq!(Query::parse("d=").word("d").unwrap(), Some(String::new()));
        assert!(Query::parse("d=,x,").list("d") == ["x"]);
    }
}
