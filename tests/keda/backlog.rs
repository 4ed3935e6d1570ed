//! Backlogs, and their end, without a consumer.

use futures::{StreamExt as _, stream};
use patient_notify::config;
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS, TEST_RESULTS, Topic};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::harness::World;
use crate::workload::{DUE, REQUESTS, RESULTS, UPDATES, Workload};

/// Records on their way at once.
const IN_FLIGHT: usize = 1_000;

/// The topic whose lag scales a workload; `None`: due rows do.
pub fn topic_of(workload: Workload) -> Option<Topic> {
    match workload.name {
        name if name == RESULTS.name => Some(TEST_RESULTS),
        name if name == REQUESTS.name => Some(NOTIFICATIONS),
        name if name == UPDATES.name => Some(NOTIFICATION_UPDATES),
        _ => None,
    }
}

/// Adds so many records that nobody will read, or rows that are due.
pub async fn add(world: &World, workload: Workload, count: u32) {
    let Some(topic) = topic_of(workload) else {
        assert_eq!(workload.name, DUE.name);
        return add_due(world, count).await;
    };
    let name = world.topic(&topic);
    let sent = stream::iter(0..count)
        .map(async |number| {
            let key = format!("backlog-{number}");
            world.publish_raw(&name, Some(key.as_bytes()), Some(b"nobody reads it"), &[]).await
        })
        .buffer_unordered(IN_FLIGHT);
    sent.collect::<Vec<_>>().await;
}

async fn add_due(world: &World, count: u32) {
    let statement = format!(
        "INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state,
                               reason, due_at, expires_at)
         SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'sms', 0, 'normal',
                'temporary_failure', 'none', now(), now() + interval '1 day'
           FROM generate_series(1, {count})"
    );
    world.pool.get().await.unwrap().batch_execute(&statement).await.unwrap();
}

/// Ends a backlog: the group's offsets are those of the end, the rows are gone.
pub async fn end(world: &World, workload: Workload) {
    let Some(topic) = topic_of(workload) else {
        world.pool.get().await.unwrap().batch_execute("DELETE FROM delivery").await.unwrap();
        return;
    };
    let group = topic.full_group(&world.config.kafka.topic_prefix).unwrap();
    let mut ends = TopicPartitionList::new();
    for one in world.committed(&topic).await {
        ends.add_partition_offset(&world.topic(&topic), one.partition, Offset::Offset(one.high)).unwrap();
    }
    let kafka = world.config.kafka.clone();
    blocking(move || consumer(&kafka, &group).commit(&ends, CommitMode::Sync).unwrap()).await;
}

/// Takes a group's offsets away: as if it had never read.
pub async fn forget_offsets(world: &World, workload: Workload) {
    let group = topic_of(workload).unwrap().full_group(&world.config.kafka.topic_prefix).unwrap();
    let admin: AdminClient<DefaultClientContext> = kafka_client_config(&world.config.kafka).create().unwrap();
    let deleted = admin.delete_groups(&[&group], &AdminOptions::new()).await.unwrap();
    for one in deleted {
        one.unwrap();
    }
}

fn consumer(kafka: &config::Kafka, group: &str) -> BaseConsumer {
    let mut client = kafka_client_config(kafka);
    client.set("group.id", group).set("enable.auto.commit", "false");
    client.create().unwrap()
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(look).await.unwrap()
}
