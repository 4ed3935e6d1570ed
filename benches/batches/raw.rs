//! librdkafka alone: the same keys and values, with the settings of our producer.

use std::time::{Duration, Instant};

use patient_notify::config;
use patient_notify::topic::client::kafka_client_config;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::producer::{DefaultProducerContext, NoCustomPartitioner};

const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Writes them all; the time until the last one is acknowledged.
pub async fn produce(
    kafka: &config::Kafka,
    topic: &str,
    records: Vec<(String, Vec<u8>)>,
) -> anyhow::Result<Duration> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || blocking(&kafka, &topic, &records)).await?
}

fn blocking(kafka: &config::Kafka, topic: &str, records: &[(String, Vec<u8>)]) -> anyhow::Result<Duration> {
    let producer: ThreadedProducer<DefaultProducerContext, NoCustomPartitioner> = kafka_client_config(kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536")
        .create_with_context(DefaultProducerContext)?;
    let begun = Instant::now();
    for (key, payload) in records {
        let mut record = BaseRecord::to(topic).key(key.as_str()).payload(payload);
        while let Err((error, same)) = producer.send(record) {
            anyhow::ensure!(
                matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)),
                "raw producer: {error}"
            );
            std::thread::sleep(FULL_PAUSE);
            record = same;
        }
    }
    producer.flush(FLUSH_TIMEOUT)?;
    Ok(begun.elapsed())
}
