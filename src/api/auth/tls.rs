//! TLS on the front's port: connections are accepted, secured, and handed to the
//! server with what the client's certificate says.
//!
//! A client may come without a certificate: browsers, probes and providers do, and so
//! does who has a token. One that no configured authority has signed ends the
//! handshake. Accepting never waits for a client: when too many handshakes are under
//! way the oldest ends, for one that is meant takes milliseconds. Certificates, key and authorities are read again on an interval; open
//! connections stay as they are until they are renewed.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{certificate, files};
use crate::config;
use crate::metrics;

/// Bytes of a PEM file.
const PEM_MAX_BYTES: usize = 1024 * 1024;
/// Handshakes at once, with secured connections that wait to be taken; a further one
/// ends the oldest.
const HANDSHAKES_MAX: usize = 256;
/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Secured connections that the server has not taken yet.
const SECURED_MAX: usize = 64;
/// Pause after a connection could not be accepted: no file handle is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is spoken: gRPC needs HTTP/2, pages and callbacks do not.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What TLS is spoken with, as it was last read.
pub(crate) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files. `None`: TLS is not configured. The errors are for people.
    pub(super) fn read(config: &config::Auth) -> Result<Option<Self>, Vec<String>> {
        if config.tls_certificate_file.is_empty() {
            return Ok(None);
        }
        let certificate = PathBuf::from(&config.tls_certificate_file);
        let key = PathBuf::from(&config.tls_key_file);
        let client_ca = Some(&config.client_ca_file).filter(|path| !path.is_empty()).map(PathBuf::from);
        let current = RwLock::new(Arc::new(server_config(&certificate, &key, client_ca.as_deref())?));
        Ok(Some(Self { certificate, key, client_ca, current }))
    }

    /// Reads the files again; with a fault what was read before stays.
    pub(super) fn reread(&self) -> Result<(), Vec<String>> {
        let read = server_config(&self.certificate, &self.key, self.client_ca.as_deref())?;
        *self.current.write() = Arc::new(read);
        Ok(())
    }

    /// Accepts and secures connections until `shutdown`.
    pub(crate) fn incoming(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> ReceiverStream<io::Result<Secured>> {
        let (secured, incoming) = mpsc::channel(SECURED_MAX);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.accept(listener, secured.clone()) => {}
                () = secured.closed() => {}
            }
        });
        ReceiverStream::new(incoming)
    }

    async fn accept(&self, listener: TcpListener, secured: mpsc::Sender<io::Result<Secured>>) {
        let mut handshakes: VecDeque<AbortHandle> = VecDeque::with_capacity(HANDSHAKES_MAX);
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&self.current.read()));
            let secured = secured.clone();
            make_room(&mut handshakes);
            let handshake = tokio::spawn(async move {
                // An option that cannot be set costs a little time, nothing else.
                let _ = stream.set_nodelay(true);
                let fault = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        // An error says that the server is gone, and with it the connection.
                        let _ = secured.send(Ok(Secured::new(stream, address))).await;
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "took too long".to_owned(),
                };
                // Port scans and plain connections come here too: not worth a louder line.
                metrics::call_refused("none", "tls_handshake");
                tracing::debug!(fault, %address, "TLS handshake failed");
            });
            handshakes.push_back(handshake.abort_handle());
        }
    }
}

/// Forgets handshakes that have ended, and ends the oldest when there are too many.
fn make_room(handshakes: &mut VecDeque<AbortHandle>) {
    handshakes.retain(|handshake| !handshake.is_finished());
    if handshakes.len() < HANDSHAKES_MAX {
        return;
    }
    if let Some(oldest) = handshakes.pop_front() {
        oldest.abort();
        metrics::call_refused("none", "tls_handshake");
    }
}

fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<ServerConfig, Vec<String>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(certificate).map_err(|wrong| format!("auth.tls_certificate_file {wrong}"));
    let key = private_key(key).map_err(|wrong| format!("auth.tls_key_file {wrong}"));
    let verifier = client_ca.map_or(Ok(WebPkiClientVerifier::no_client_auth()), |path| {
        let fault = |wrong: String| format!("auth.client_ca_file {wrong}");
        let mut roots = RootCertStore::empty();
        for authority in certificates(path).map_err(fault)? {
            roots.add(authority).map_err(|error| fault(format!("{}: {error}", path.display())))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| fault(format!("{}: {error}", path.display())))
    });
    let (chain, key, verifier) = match (chain, key, verifier) {
        (Ok(chain), Ok(key), Ok(verifier)) => (chain, key, verifier),
        (chain, key, verifier) => {
            return Err([chain.err(), key.err(), verifier.err()].into_iter().flatten().collect());
        }
    };
    let fault =
        |error: rustls::Error| vec![format!("auth.tls_certificate_file with auth.tls_key_file: {error}")];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fault)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(fault)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = files::read(path, PEM_MAX_BYTES)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    read.ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| format!("{} has no certificate in PEM form", path.display()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = files::read(path, PEM_MAX_BYTES)?;
    PrivateKeyDer::from_pem_slice(&content)
        .map_err(|_| format!("{} has no private key in PEM form", path.display()))
}

/// Who is at the other end of a secured connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// From where.
    pub(super) address: SocketAddr,
    /// Names in the client's certificate; `None`: it showed none.
    pub(super) identities: Option<Arc<[String]>>,
}

/// A secured connection.
pub(crate) struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Secured {
    fn new(stream: TlsStream<TcpStream>, address: SocketAddr) -> Self {
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identities = shown.map(|certificate| certificate::identities(certificate).into());
        Self { stream, peer: Peer { address, identities } }
    }
}

impl Connected for Secured {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio_rustls::TlsConnector;
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let config = config::Auth {
            tls_certificate_file: path("certificate.pem"),
            tls_key_file: path("key.pem"),
            ..config::Config::from_defaults().auth
        };
        let tls = Arc::new(Tls::read(&config).unwrap().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = tls.incoming(listener, CancellationToken::new());

        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES_MAX + 2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let meant = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let both = async { tokio::join!(connector.connect(name, meant), incoming.next()) };
        // Before a silent one's time is over.
        let (client, server) = timeout(HANDSHAKE_TIMEOUT / 2, both).await.unwrap();
        client.unwrap();
        server.unwrap().unwrap();
    }
}
