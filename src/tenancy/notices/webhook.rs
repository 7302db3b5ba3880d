use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::config::WebhookConfig;
use crate::types::Notice;

/// How long its receiver may take: the end of the process waits for it, too.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where notices are sent, signed as Standard Webhooks 1.0.0 has it, which OpenAI's webhooks and SDKs follow.
pub struct Webhook {
    url: String,
    key: Vec<u8>,
    agent: Agent,
}

impl Webhook {
    /// `None` where no URL is set.
    ///
    /// # Errors
    /// The secret is none; a checked config has a good one.
    pub fn new(config: &WebhookConfig) -> Result<Option<Self>, String> {
        let Some(url) = config.url.clone() else {
            return Ok(None);
        };
        // The certificates that the system trusts: a site may have an authority of its own.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .tls_config(tls.build())
            .build();
        Ok(Some(Self {
            url,
            key: config.key()?,
            agent: agent.into(),
        }))
    }

    /// Sends a notice and waits until it is taken: for a status from 200 to 299. It blocks.
    pub(super) fn deliver(&self, notice: &Notice) -> Result<(), String> {
        let at = Timestamp::now().as_second();
        let request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &notice.id)
            .header("webhook-timestamp", at.to_string())
            .header(
                "webhook-signature",
                sign(&self.key, &notice.id, at, &notice.body),
            );
        match request.send(&notice.body) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status())),
            Err(ureq::Error::StatusCode(status)) => Err(format!("it answered {status}")),
            // What the client says may quote the URL, which may hold a secret.
            Err(ureq::Error::Timeout(_)) => Err("it took too long".into()),
            Err(ureq::Error::Io(error)) => {
                Err(format!("it could not be reached: {}", error.kind()))
            }
            Err(_) => Err("it could not be reached".into()),
        }
    }
}

/// The symmetric signature of Standard Webhooks 1.0.0, `v1`.
fn sign(key: &[u8], id: &str, at: i64, body: &str) -> String {
    #[expect(
        clippy::expect_used,
        reason = "HMAC takes keys of any length (RFC 2104)"
    )]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_own_example() {
        // From the reference implementations' tests.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
