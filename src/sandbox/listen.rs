//! A listener that can misbehave: it closes single connections at a word, and
//! all of them, with the port, while `refuse` is set.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::faults::ChannelFaults;

/// Connections that one server holds; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 8192;
/// Pause after an error of the system (too many files) or a port that is not free again.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// A listener on loopback.
pub(super) struct Gate {
    address: SocketAddr,
    listener: Option<TcpListener>,
    faults: watch::Receiver<ChannelFaults>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    /// Cancelled when `refuse` is set; then a new one serves.
    open: CancellationToken,
}

impl Gate {
    /// Binds a port of 127.0.0.1; 0: a free one.
    pub(super) async fn bind(
        port: u16,
        faults: watch::Receiver<ChannelFaults>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener: Some(listener),
            faults,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            open: stop.child_token(),
            stop,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection; it comes back only with one.
    pub(super) async fn next(&mut self) -> Line {
        loop {
            if self.faults.borrow_and_update().refuse {
                self.close();
                if self.faults.wait_for(|faults| !faults.refuse).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            if self.listener.is_none() {
                self.listener = TcpListener::bind(self.address).await.ok();
            }
            let Some(listener) = &self.listener else {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => return Line::new(stream, self.open.child_token(), permit),
                    Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
                },
                Ok(()) = self.faults.changed() => {}
            }
        }
    }

    fn close(&mut self) {
        self.listener = None;
        self.open.cancel();
        self.open = self.stop.child_token();
    }
}

impl Listener for Gate {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        (self.next().await, self.address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// One connection.
pub(super) struct Line {
    stream: TcpStream,
    cut: CancellationToken,
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl Line {
    fn new(stream: TcpStream, cut: CancellationToken, permit: OwnedSemaphorePermit) -> Self {
        // Without it small answers wait for ACKs; a failure only makes it slower.
        let _ = stream.set_nodelay(true);
        Self { stream, when_cut: Box::pin(cut.clone().cancelled_owned()), cut, _permit: permit }
    }
}

fn was_cut() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.when_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(was_cut()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(was_cut()));
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(was_cut()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Closes the connection of a request.
#[derive(Clone, Debug)]
pub(super) struct Cut(CancellationToken);

impl Cut {
    /// Closes it without an answer; never comes back.
    pub(super) async fn now<T>(&self) -> T {
        self.0.cancel();
        std::future::pending().await
    }
}

impl Connected<IncomingStream<'_, Gate>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self(stream.io().cut.clone())
    }
}
