//! Queues in the database, and cron.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;

use super::{INSTRUMENTS, word};
use crate::domain::Channel;

/// A job of the general queue, by what its attempt came to: `done`, `failed`, `parked`,
/// `cancelled`, `released`, `postponed` or `lost`.
pub fn job(kind: &'static str, end: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.queues.jobs.add(1, &[word("kind", kind), word("end", end)]);
    }
}

/// A tick of a job of cron has ended: done, failed, skipped or interrupted.
pub fn cron_tick(job: &'static str, end: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.cron.ticks.add(1, &[word("job", job), word("end", end)]);
    }
}

/// How long a tick took from its first runner to its end.
pub fn cron_tick_duration(job: &'static str, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.cron.tick_duration.record(elapsed.as_secs_f64(), &[word("job", job)]);
    }
}

/// How long ago the last done tick of a job ended.
pub fn cron_done_age(job: &'static str, age: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.cron.done_age.record(age.as_secs_f64(), &[word("job", job)]);
    }
}

/// What the last done tick of a job counted, by one of the job's words.
pub fn cron_counted(job: &'static str, what: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.cron.counted.record(n, &[word("job", job), word("what", what)]);
    }
}

/// Callbacks to this caller that came to `result`. Names of callers are configured, so
/// there are few.
pub fn callback(caller: &Arc<str>, result: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("result", result), KeyValue::new("caller", Arc::clone(caller))];
        i.queues.callbacks.add(n, &labels);
    }
}

/// The next channel was begun because evidence was overdue.
pub fn escalated(channel: Channel, reason: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.queues.escalated.add(1, &[word("channel", channel.as_str()), word("reason", reason)]);
    }
}

/// Rows of a queue and urgency that are due, and for how long the oldest has been. Both
/// words are ours: queues have static names.
pub fn due_depth(queue: &str, urgency: &str, due: u64, oldest: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [KeyValue::new("queue", queue.to_owned()), KeyValue::new("urgency", urgency.to_owned())];
        i.queues.due_depth.record(due, &labels);
        i.queues.due_oldest_age.record(oldest.as_secs_f64(), &labels);
    }
}
