//! The way to a worker: over TCP by connections that are driven by those who wait on them ([`Idle`]), over TLS and HTTP/2
//! by hyper's client with its pools.

use std::future::Future;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client as Pooled, Error as SendError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use super::Options;
use super::connections::{Body, Idle, KEEP_IDLE};
use crate::types::Endpoint;

/// A connection of HTTP/2 that says nothing for so long is asked whether it still lives, and has as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A worker's address, and the connections to it.
pub(super) struct Client {
    pooled: Pooled<HttpsConnector<Dial>, Full<Bytes>>,
    /// Where it speaks plain HTTP/1.1.
    plain: Option<Plain>,
    base: Uri,
    /// Where each endpoint is.
    endpoints: Vec<(&'static str, Uri)>,
    authorization: Option<HeaderValue>,
}

/// What the requests to one server of plain HTTP/1.1 have in common.
struct Plain {
    idle: Idle,
    dial: Dial,
    host: HeaderValue,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no connection, so nothing was sent.
    #[error("no connection")]
    Connect,
    /// It broke off, or sent what is no HTTP.
    #[error("its connection broke off")]
    Broken,
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        if error.is_connect() {
            Self::Connect
        } else {
            Self::Broken
        }
    }
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let dial = Dial {
            address: options.address,
            timeout: options.timeouts.connect,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(options)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(dial.clone());
        let authorization = match &options.api_key {
            None => None,
            Some(key) => {
                let value = HeaderValue::from_str(&format!("Bearer {key}"));
                let mut value = value.map_err(|_| "its key is no header value".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let pooled = Pooled::builder(TokioExecutor::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(Some(KEEP_ALIVE))
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .http2_only(options.http2)
            .build(connector);
        let base = &options.url;
        let is_plain = base.scheme() == Some(&Scheme::HTTP) && !options.http2;
        let endpoints = Endpoint::ALL.map(Endpoint::path).into_iter();
        let endpoints = endpoints.map(|path| Ok((path, under(base, path)?)));
        let endpoints = endpoints.collect::<Result<_, Error>>();
        Ok(Self {
            pooled,
            plain: is_plain.then(|| Plain::new(dial, base)).flatten(),
            endpoints: endpoints.map_err(|_| "its url can't have a path behind it".to_owned())?,
            base: base.clone(),
            authorization,
        })
    }

    /// Sends a JSON body, and gives the response as soon as its head is there. Nothing of the client's own headers goes along.
    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Response<Body>, Error> {
        let mut endpoints = self.endpoints.iter();
        let uri = match endpoints.find(|(known, _)| *known == path) {
            Some((_, uri)) => uri.clone(),
            None => self.at(path)?,
        };
        self.send(Method::POST, uri, body.into()).await
    }

    /// Reads a short text.
    pub(super) async fn get(&self, uri: Uri, longest: usize) -> Result<(u16, Bytes), Error> {
        let response = self.send(Method::GET, uri, Bytes::new()).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), longest).collect().await;
        Ok((status, body.map_err(|_| Error::Broken)?.to_bytes()))
    }

    /// The worker's URL with this path behind it.
    pub(super) fn at(&self, path: &str) -> Result<Uri, Error> {
        under(&self.base, path)
    }

    async fn send(&self, method: Method, uri: Uri, body: Bytes) -> Result<Response<Body>, Error> {
        let own = uri.authority() == self.base.authority();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Its metrics may be elsewhere.
        if let Some(authorization) = self.authorization.as_ref().filter(|_| own) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        match self.plain.as_ref().filter(|_| own) {
            Some(plain) => plain.send(request).await,
            None => Ok(self.pooled.request(request).await?.map(Body::from)),
        }
    }
}

/// A server's URL with this path behind it.
fn under(base: &Uri, path: &str) -> Result<Uri, Error> {
    let mut parts = base.clone().into_parts();
    let folder = base.path().trim_end_matches('/');
    let path = PathAndQuery::try_from(format!("{folder}{path}"));
    parts.path_and_query = Some(path.map_err(|_| Error::Connect)?);
    Uri::from_parts(parts).map_err(|_| Error::Connect)
}

impl Plain {
    fn new(dial: Dial, base: &Uri) -> Option<Self> {
        let host = base.authority()?.as_str().rsplit('@').next()?;
        Some(Self {
            idle: Idle::default(),
            dial,
            host: HeaderValue::from_str(host).ok()?,
        })
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Body>, Error> {
        let uri = std::mem::take(request.uri_mut());
        if let Some(path) = uri.path_and_query() {
            *request.uri_mut() = path.clone().into();
        }
        request.headers_mut().insert(HOST, self.host.clone());
        let dial = async { self.dial.to(&uri).await.map_err(|_| Error::Connect) };
        self.idle.send(request, dial).await
    }
}

/// Opens connections: to the URI's host, or to the one of its addresses that is this worker.
#[derive(Clone)]
struct Dial {
    address: Option<IpAddr>,
    timeout: Duration,
}

type Dialing = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<TcpStream>>> + Send>>;

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        let dial = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dial.to(&uri).await?)) })
    }
}

impl Dial {
    async fn to(&self, uri: &Uri) -> std::io::Result<TcpStream> {
        let connecting = async {
            match self.address {
                Some(address) => TcpStream::connect((address, port(uri))).await,
                None => {
                    let host = uri.host().ok_or(ErrorKind::InvalidInput)?;
                    let host = host.trim_start_matches('[').trim_end_matches(']');
                    TcpStream::connect((host, port(uri))).await
                }
            }
        };
        let stream = tokio::time::timeout(self.timeout, connecting)
            .await
            .map_err(|_| ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The port of a URI, or its scheme's.
pub(super) fn port(uri: &Uri) -> u16 {
    let usual = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(usual)
}

fn tls(options: &Options) -> Result<ClientConfig, String> {
    let files = &options.tls;
    let mut urls = [Some(&options.url), options.metrics_url.as_ref()]
        .into_iter()
        .flatten();
    let is_used = urls.any(|url| url.scheme() == Some(&Scheme::HTTPS));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.ca {
        // The system's certificates are many, and each worker would have them.
        None if !is_used => builder.with_root_certificates(RootCertStore::empty()),
        None => builder
            .try_with_platform_verifier()
            .map_err(|error| error.to_string())?,
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| about(ca, &error))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    match &files.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|error| about(key, &error))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, own)
                .map_err(|error| about(certificate, &error))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| about(path, &error))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|error| about(path, &error))?;
    if all.is_empty() {
        return Err(about(path, &"it holds no certificate"));
    }
    Ok(all)
}

fn about(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
