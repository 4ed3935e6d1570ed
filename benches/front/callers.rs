//! Callers: each asks again as soon as it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// Connections, as a few pods of a caller would hold.
const CONNECTIONS: usize = 4;
const PATIENTS: u64 = 50_000;
const LONGEST_MS: u64 = 60_000;

/// What a round came to.
pub struct Round {
    /// Calls answered with OK a second.
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

/// Connections to one server.
pub struct Callers {
    channels: Vec<Channel>,
    token: MetadataValue<Ascii>,
    /// No two calls of a run have the same key.
    next: Arc<AtomicU64>,
}

impl Callers {
    pub async fn new(server: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("http://{server}"))?.tcp_nodelay(true);
            channels.push(endpoint.connect().await?);
        }
        let token = format!("Bearer {token}").parse()?;
        Ok(Self { channels, token, next: Arc::default() })
    }

    /// Keeps `concurrent` calls under way for `time`. Any error ends the bench: a rate
    /// of refusals would say nothing.
    pub async fn run(&self, concurrent: usize, time: Duration) -> anyhow::Result<Round> {
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for number in 0..concurrent {
            let client = NotificationServiceClient::new(self.channels[number % CONNECTIONS].clone());
            callers.spawn(call(client, self.token.clone(), Arc::clone(&self.next), begun + time));
        }
        let mut waits = Histogram::new(3)?;
        while let Some(ended) = callers.join_next().await {
            waits.add(ended??)?;
        }
        let elapsed = begun.elapsed();
        let at = |quantile| Duration::from_micros(waits.value_at_quantile(quantile));
        Ok(Round { rate: waits.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) })
    }
}

async fn call(
    mut client: NotificationServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    next: Arc<AtomicU64>,
    until: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut waits = Histogram::new_with_max(LONGEST_MS * 1000, 3)?;
    while Instant::now() < until {
        let mut request = Request::new(wish(next.fetch_add(1, Ordering::Relaxed)));
        request.metadata_mut().insert("authorization", token.clone());
        let begun = Instant::now();
        client.send(request).await.context("a call was not answered with OK")?;
        waits.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(waits)
}

/// A reminder as a scheduling system would ask for it.
pub fn wish(number: u64) -> proto::NotificationServiceSendRequest {
    proto::NotificationServiceSendRequest {
        idempotency_key: format!("visit-{number}"),
        patient_id: format!("pat-{:06}", number % PATIENTS),
        purpose: proto::Purpose::AppointmentReminder.into(),
        variables: [
            ("clinic".to_owned(), "Eye clinic, second floor".to_owned()),
            ("when".to_owned(), "Monday, 10:30".to_owned()),
        ]
        .into(),
        ..Default::default()
    }
}
