//! A way to a server that can be cut: what a test puts in front of the database,
//! the registry or the broker.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ports::free_port;
use super::stack::Addresses;

/// Longest wait for the server behind it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards TCP connections until it is cut; then nobody listens and every
/// connection is closed.
pub struct Proxy {
    /// Where it listens, `127.0.0.1:port`; the same before and after a cut.
    pub address: String,
    target: String,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        Self::on_port(target, free_port()).await
    }

    async fn on_port(target: &str, port: u16) -> Self {
        let listener =
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("the proxy's port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let running = Mutex::new(Some(Running::serve(listener, target)));
        Self { address, target: target.to_owned(), running }
    }

    /// Closes everything; when it returns, connections are refused.
    pub async fn cut(&self) {
        if let Some(mut running) = self.running.lock().await.take() {
            running.stop.cancel();
            (&mut running.server).await.expect("the proxy's task");
        }
    }

    /// Forwards again.
    pub async fn restore(&self) {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let listener = TcpListener::bind(&self.address).await.expect("the proxy's own port");
            *running = Some(Running::serve(listener, &self.target));
        }
    }
}

impl Running {
    fn serve(listener: TcpListener, target: &str) -> Self {
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, target.to_owned(), stop.clone()));
        Self { stop, server }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(listener: TcpListener, target: String, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        if let Ok((client, _)) = accepted {
            connections.spawn(forward(client, target.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    connections.shutdown().await;
}

async fn forward(mut client: TcpStream, target: String) {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
    if let Ok(Ok(mut server)) = connect.await {
        // Either side may go at any time: that is what a proxy is here for.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// The proxy that clients of [`Addresses::proxied_brokers`] go through. There is
/// one port for it, so one test has it at a time.
pub struct BrokerProxy {
    /// The proxy.
    pub proxy: Proxy,
    _turn: MutexGuard<'static, ()>,
}

impl BrokerProxy {
    /// Waits for its turn, and forwards.
    pub async fn start() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let addresses = Addresses::from_environment();
        let proxy = Proxy::on_port(&addresses.proxy_target, addresses.proxy_port).await;
        Self { proxy, _turn: turn }
    }

    /// Lets the next test have it: returns when the port is free.
    pub async fn stop(self) {
        self.proxy.cut().await;
    }
}
