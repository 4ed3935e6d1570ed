//! One batch: decode, bury what cannot be decoded, and hand the rest to the flow
//! of this processor.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, warn};

use super::claims::trace_of;
use super::retry::Retry;
use super::{Flow, Shared, notify, updates};
use crate::decode::Rejected;
use crate::domain::{Outcome, Reason};
use crate::metrics;
use crate::topic::{Origin, Record};
use crate::trace::{Kind, Span};

/// Dead letters that are written side by side.
const DEAD_LETTERS_AT_ONCE: usize = 64;

/// A record that was decoded, with its place in the in-flight budget.
pub(super) struct Decoded<E> {
    pub(super) record: Record,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) event: E,
}

/// Runs one batch. `permits` holds one for each record.
pub(super) async fn process(shared: &Arc<Shared>, records: Vec<Record>, permits: OwnedSemaphorePermit) {
    let decoder = &shared.parts.decoder;
    match &shared.parts.flow {
        Flow::Notify(flow) => {
            let decode = |payload: Option<&[u8]>| decoder.decode(flow.kind, payload);
            if let Some(decoded) = sift(shared, records, permits, decode).await {
                notify::process(shared, flow, decoded).await;
            }
        }
        Flow::Updates(flow) => {
            let decode = |payload: Option<&[u8]>| decoder.decode_update(payload);
            if let Some(decoded) = sift(shared, records, permits, decode).await {
                updates::process(shared, flow, decoded).await;
            }
        }
    }
}

/// Decodes, and buries what can not be. `None`: nothing is left to do.
async fn sift<E>(
    shared: &Shared,
    records: Vec<Record>,
    permits: OwnedSemaphorePermit,
    decode_one: impl Fn(Option<&[u8]>) -> Result<E, Rejected>,
) -> Option<Vec<Decoded<E>>> {
    let (decoded, rejected) = decode(shared, records, permits, decode_one).await?;
    bury(shared, rejected).await;
    (!decoded.is_empty()).then_some(decoded)
}

type Split<E> = (Vec<Decoded<E>>, Vec<(Record, Rejected)>);

/// `None`: interrupted while the registry was away; everything is released.
async fn decode<E>(
    shared: &Shared,
    records: Vec<Record>,
    mut permits: OwnedSemaphorePermit,
    decode_one: impl Fn(Option<&[u8]>) -> Result<E, Rejected>,
) -> Option<Split<E>> {
    let mut retry = Retry::new(shared, "registry");
    loop {
        let payloads = records
            .iter()
            .filter(|record| with_key(record).is_ok())
            .filter_map(|record| record.payload.as_ref())
            .map(|payload| payload.expose().as_slice());
        match shared.parts.decoder.prepare(payloads).await {
            Ok(()) => break,
            Err(error) => {
                if !retry.again(&error, records.iter().all(|r| r.ticket.partition().is_closing())).await {
                    records.into_iter().for_each(|record| record.ticket.release());
                    return None;
                }
            }
        }
    }
    drop(retry);
    let mut decoded = Vec::with_capacity(records.len());
    let mut rejected = Vec::new();
    for record in records {
        let payload = record.payload.as_ref().map(|payload| payload.expose().as_slice());
        match with_key(&record).and_then(|()| decode_one(payload)) {
            Ok(event) => match permits.split(1) {
                Some(permit) => decoded.push(Decoded { record, permit, event }),
                None => {
                    shared.bug(&"a batch has more records than places in flight");
                    record.ticket.release();
                }
            },
            Err(why) => rejected.push((record, why)),
        }
    }
    Some((decoded, rejected))
}

/// Without a key, records of one patient lie on any partition and overtake each other.
fn with_key(record: &Record) -> Result<(), Rejected> {
    match &record.key {
        Some(key) if !key.expose().is_empty() => Ok(()),
        _ => {
            let detail = "the record has no key: its producer must write the patient's id as the key";
            Err(Rejected::new(Reason::EmptyKey, detail))
        }
    }
}

/// Writes dead letters and completes their records once they are acknowledged.
async fn bury(shared: &Shared, rejected: Vec<(Record, Rejected)>) {
    futures::stream::iter(rejected)
        .for_each_concurrent(DEAD_LETTERS_AT_ONCE, |(record, why)| bury_one(shared, record, why))
        .await;
}

async fn bury_one(shared: &Shared, record: Record, why: Rejected) {
    if shared.conditions.breaker_open.load(Ordering::Relaxed) || shared.breaker.lock().observe(true) {
        open_breaker(shared, &why);
        // Held, not dropped: the offset stays and no restart is provoked.
        while !record.ticket.partition().is_closing() && !shared.stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        record.ticket.release();
        return;
    }
    let partition = Arc::clone(record.ticket.partition());
    let origin = Origin {
        topic: &partition.topic,
        partition: partition.partition,
        offset: record.ticket.offset(),
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_ref().map(|key| key.expose().as_slice()),
        payload: record.payload.as_ref().map(|payload| payload.expose().as_slice()),
        headers: record.headers.expose(),
    };
    let mut retry = Retry::new(shared, "kafka");
    while let Err(error) = shared.parts.dead_letters.send(&origin, why.reason, &why.detail).await {
        if !retry.again(&error, partition.is_closing()).await {
            return record.ticket.release();
        }
    }
    warn!(
        topic = &*partition.topic,
        partition = partition.partition,
        offset = record.ticket.offset(),
        reason = %why.reason,
        detail = why.detail,
        "dead letter"
    );
    if let Some(trace) = trace_of(&record) {
        Span::begin("dead letter", Kind::Consumer, trace)
            .with("messaging.system", "kafka")
            .with_text("messaging.destination.name", &partition.topic)
            .with_text("messaging.destination.partition.id", &partition.partition)
            .with("messaging.kafka.offset", record.ticket.offset())
            .fail(why.reason.as_str());
    }
    metrics::dead_letter(&partition.topic, why.reason);
    metrics::records(&partition.topic, Outcome::Rejected(why.reason).as_str(), 1);
    record.ticket.complete();
}

fn open_breaker(shared: &Shared, why: &Rejected) {
    if !shared.conditions.breaker_open.swap(true, Ordering::Relaxed) {
        metrics::breaker_open(true);
        error!(
            reason = %why.reason,
            "dead-letter breaker open: the processor stops here instead of draining the topic into its dead \
             letters; mend the producer or the schema, then restart this pod"
        );
    }
}

/// True when the partitions of all of them are being revoked.
pub(super) fn all_closing<E>(decoded: &[Decoded<E>]) -> bool {
    decoded.iter().all(|one| one.record.ticket.partition().is_closing())
}

/// Interrupted: the offsets stay, the next owner reads the records again.
pub(super) fn release<E>(decoded: Vec<Decoded<E>>) {
    decoded.into_iter().for_each(|one| one.record.ticket.release());
}
