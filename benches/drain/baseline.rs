//! What the parts can do alone.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use uuid::Uuid;

use crate::world::World;

/// Rows a chunk of COPY.
const COPY_CHUNK_ROWS: u64 = 2_000;

/// Reads every record of the topic, and does nothing with it.
pub fn raw_consume(world: &World) -> anyhow::Result<Duration> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.config.kafka.bootstrap_servers)
        .set("group.id", format!("{}raw", world.config.kafka.topic_prefix))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    consumer.subscribe(&[&world.topic])?;
    let mut read = 0;
    let mut begun = None;
    while read < world.results {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message?;
            begun.get_or_insert_with(Instant::now);
            read += 1;
        }
    }
    Ok(begun.map_or(Duration::ZERO, |begun| begun.elapsed()))
}

/// COPY of one row a message into each of the four tables that a message touches,
/// one connection, then removed again.
pub async fn copy(world: &World, results: u64) -> anyhow::Result<Duration> {
    let client = world.pool.get().await?;
    client.batch_execute("SET statement_timeout = 0").await?;
    let ids: Vec<(Uuid, Uuid)> = (0..results).map(|_| (Uuid::new_v4(), Uuid::new_v4())).collect();
    let begun = Instant::now();
    for (statement, row) in TABLES {
        let sink = client.copy_in(*statement).await?;
        tokio::pin!(sink);
        let mut chunk = String::new();
        for (number, (notification, delivery)) in ids.iter().enumerate() {
            row(&mut chunk, notification, delivery)?;
            if (number as u64 + 1).is_multiple_of(COPY_CHUNK_ROWS) {
                sink.send(Bytes::from(std::mem::take(&mut chunk))).await?;
            }
        }
        sink.send(Bytes::from(chunk)).await?;
        sink.finish().await?;
    }
    let elapsed = begun.elapsed();
    client.batch_execute("TRUNCATE notification, delivery, why, outbox").await?;
    Ok(elapsed)
}

type Row = fn(&mut String, &Uuid, &Uuid) -> std::fmt::Result;

const TABLES: &[(&str, Row)] = &[
    (
        "COPY notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason, \
         fingerprint, channels, locale, source_topic, source_partition, source_offset, published_at, expires_at) \
         FROM STDIN",
        |text, notification, recipient| {
            writeln!(
                text,
                "{notification}\tpat-000001\t{recipient}\ttest_result\tnormal\tsent\tprovider_accepted\t\
                 \\\\x{:064}\t{{sms,email}}\ten\tpat.test-results.v1\t1\t1\t2026-01-01 00:00:00Z\t\
                 2026-01-08 00:00:00Z",
                0
            )
        },
    ),
    (
        "COPY delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state, reason, \
         address, expires_at) FROM STDIN",
        |text, notification, delivery| {
            writeln!(
                text,
                "{delivery}\t{notification}\t{notification}\tsms\t0\tnormal\tsent\tprovider_accepted\t\
                 +15550000001\t2026-01-08 00:00:00Z"
            )
        },
    ),
    ("COPY why (notification_id, step, state, reason, channel) FROM STDIN", |text, notification, _| {
        writeln!(text, "{notification}\tplan\tdispatching\tdue_now\tsms")
    }),
    (
        "COPY outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel) \
         FROM STDIN",
        |text, notification, delivery| {
            writeln!(
                text,
                "{notification}\tpat-000001\t{delivery}\ttest_result\t1\tdispatching\tdue_now\tsms"
            )
        },
    ),
];
