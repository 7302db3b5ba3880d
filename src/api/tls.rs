//! TLS, with certificates that are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate with its key, as it stands in its files.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&key))
    }
}

impl Certificate {
    /// Reads both files: PEM, the server's own certificate first.
    ///
    /// # Errors
    /// A file can't be read or holds something else, or the key is not the certificate's.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, String> {
        let current = read(chain, key)?;
        Ok(Self {
            chain: chain.to_owned(),
            key: key.to_owned(),
            current: Arc::new(Current(RwLock::new(Arc::new(current)))),
        })
    }

    /// What makes connections out of a listener's, HTTP/2 where the client knows it.
    ///
    /// # Errors
    /// The library refuses its own defaults.
    pub fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Follows the files until it is told to stop. Files that don't fit together leave what was there before: they may be
    /// written one after the other.
    pub async fn follow(self, stop: CancellationToken) {
        let mut seen = self.changed();
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let now = self.changed();
            if now == seen {
                continue;
            }
            match read(&self.chain, &self.key) {
                Ok(key) => {
                    let mut current = self.current.0.write();
                    let current = current.as_deref_mut().ok();
                    if let Some(current) = current {
                        *current = Arc::new(key);
                    }
                    seen = now;
                    tracing::info!("the server's certificate was read again");
                }
                Err(error) => tracing::error!(error, "the server's certificate stays as it was"),
            }
        }
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        let time = |path: &Path| {
            std::fs::metadata(path)
                .and_then(|file| file.modified())
                .ok()
        };
        [time(&self.chain), time(&self.key)]
    }
}

fn read(chain: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(chain, &error))?;
    if certificates.is_empty() {
        return Err(wrong(chain, &"it holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    CertifiedKey::from_der(certificates, private, &ring::default_provider())
        .map_err(|error| wrong(key, &error))
}
