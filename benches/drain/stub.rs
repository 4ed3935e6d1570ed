//! A text message gateway that takes everything and answers after a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;

/// A running stub, on a thread and runtime of its own.
pub struct Stub {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Stub {
    /// Starts it on a free port.
    pub async fn start(latency: Duration) -> anyhow::Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let router = Router::new().fallback(post(move || {
            let counted = Arc::clone(&counted);
            async move {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(latency).await;
                (StatusCode::CREATED, format!(r#"{{"sid":"SM{number:032}","status":"queued"}}"#))
            }
        }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, router).await
            })
        });
        Ok(Self { address, received })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
