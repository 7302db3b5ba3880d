use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What a secret begins with (Standard Webhooks 1.0.0).
const PREFIX: &str = "whsec_";
/// The least and the most bytes of a secret (Standard Webhooks 1.0.0).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// `[webhook]`: who is told of budgets that are nearly spent.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// Where notices are sent by POST; nowhere by default.
    pub url: Option<String>,
    /// Signs them: `whsec_` and 24 to 64 bytes in base64. `FOREBAY_WEBHOOK__SECRET` keeps it out of the file.
    pub secret: Option<String>,
}

impl std::fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a secret of its own.
        let hidden = |text: &Option<String>| text.as_ref().map(|_| "(hidden)");
        f.debug_struct("WebhookConfig")
            .field("url", &hidden(&self.url))
            .field("secret", &hidden(&self.secret))
            .finish()
    }
}

impl WebhookConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(url) = &self.url else {
            return match self.secret {
                Some(_) => Err("[webhook] has a secret, and no url".into()),
                None => Ok(()),
            };
        };
        let parsed: Option<http::Uri> = url.parse().ok();
        let absolute = parsed.is_some_and(|uri| {
            uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
        });
        if !absolute {
            return Err("[webhook] url is no http:// or https:// URL".into());
        }
        self.key().map(drop)
    }

    /// The bytes of the secret.
    ///
    /// # Errors
    /// There is none, or it is none of Standard Webhooks.
    pub fn key(&self) -> Result<Vec<u8>, String> {
        let encoded = self
            .secret
            .as_deref()
            .and_then(|text| text.strip_prefix(PREFIX));
        encoded
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .filter(|key| SECRET_BYTES.contains(&key.len()))
            .ok_or_else(|| {
                "[webhook] secret must be whsec_ and 24 to 64 bytes in base64: openssl rand -base64 32 makes them".into()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: Option<&str>, secret: Option<&str>) -> Result<(), String> {
        WebhookConfig {
            url: url.map(str::to_owned),
            secret: secret.map(str::to_owned),
        }
        .check()
    }

    #[test]
    fn a_url_needs_a_secret_of_the_right_form() {
        let good = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
        check(None, None).unwrap();
        check(Some("https://ops.example/hook?x=1"), Some(good)).unwrap();
        for (url, secret, word) in [
            (None, Some(good), "no url"),
            (Some("ops.example/hook"), Some(good), "url"),
            (Some("ftp://ops.example"), Some(good), "url"),
            (Some("https://ops.example"), None, "secret"),
            (
                Some("https://ops.example"),
                Some("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"),
                "secret",
            ),
            (
                Some("https://ops.example"),
                Some("whsec_c2hvcnQ="),
                "secret",
            ),
        ] {
            let refusal = check(url, secret).unwrap_err();
            assert!(
                refusal.contains(word) && !refusal.contains("MDEy"),
                "{refusal}"
            );
        }
    }
}
