//! Members of a consumer group and what each reads, as the brokers tell it.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;

use super::client::kafka_client_config;
use crate::config;

/// Longest time one request may take.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Partitions of one member that are named, at most.
const PARTITIONS_MAX: usize = 10_000;

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The brokers' word, for example `Stable`.
    pub state: String,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id that the brokers gave to it.
    pub id: String,
    /// What it calls itself.
    pub client_id: String,
    /// Topic (full name) and partition of what it reads.
    pub partitions: Vec<(String, i32)>,
}

/// Reads who is in a group; `None`: the brokers do not know it. Blocking: call it from a
/// thread that may block.
///
/// # Errors
/// When the broker does not answer within its time.
pub fn read(kafka: &config::Kafka, group: &str) -> Result<Option<Group>, KafkaError> {
    let consumer: BaseConsumer = kafka_client_config(kafka).create()?;
    of(&consumer, group, TIMEOUT)
}

/// As [`read`], with a client that is there already.
///
/// # Errors
/// When the broker does not answer in this time.
pub fn of<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    group: &str,
    timeout: Duration,
) -> Result<Option<Group>, KafkaError> {
    let list = client.fetch_group_list(Some(group), timeout)?;
    let found = list.groups().iter().find(|found| found.name() == group);
    Ok(found.filter(|found| found.state() != "Dead").map(|found| Group {
        state: found.state().to_owned(),
        members: found
            .members()
            .iter()
            .map(|member| Member {
                id: member.id().to_owned(),
                client_id: member.client_id().to_owned(),
                partitions: member.assignment().and_then(assignment).unwrap_or_default(),
            })
            .collect(),
    }))
}

/// Kafka's `ConsumerProtocolAssignment`: version, then topics, each with its partitions.
/// `None` when it is none.
fn assignment(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut rest = bytes;
    take(&mut rest, 2)?;
    let mut partitions = Vec::new();
    for _ in 0..number(&mut rest)? {
        let length = take(&mut rest, 2)?;
        let length = usize::try_from(i16::from_be_bytes(length.try_into().ok()?)).ok()?;
        let topic = std::str::from_utf8(take(&mut rest, length)?).ok()?.to_owned();
        for _ in 0..number(&mut rest)? {
            partitions.push((topic.clone(), number(&mut rest)?));
            if partitions.len() > PARTITIONS_MAX {
                return None;
            }
        }
    }
    Some(partitions)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_what_is_none_is_not() {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 2, b't', b'1', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 7];
        bytes.extend([0xff, 0xff, 0xff, 0xff]);
        let read = assignment(&bytes).unwrap();
        assert_eq!(read, [("t1".to_owned(), 3), ("t1".to_owned(), 7)]);
        for length in 0..22 {
            assert_eq!(assignment(&bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(assignment(&[0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]), None, "a length below zero");
        assert_eq!(assignment(&[0, 0, 0, 0, 0, 0]), Some(Vec::new()), "it reads nothing");
    }
}
