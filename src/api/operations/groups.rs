//! Consumer groups: how far behind they are, and who is in them.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{ApiError, Operations, proto};
use crate::api::convert::{channel_to, timestamp_to};
use crate::record::pauses::{self, Sender};
use crate::topic::lag::{self, PartitionLag};
use crate::topic::members::{self, Group};
use crate::topic::names;

impl Operations {
    /// Full names of our groups, each with the full names of its topics.
    fn groups(&self) -> BTreeMap<String, Vec<String>> {
        names::groups(&self.setup.kafka.topic_prefix)
    }

    pub(super) async fn lag(
        &self,
        group: &str,
        until: Instant,
    ) -> Result<proto::OperationsServiceGetLagResponse, ApiError> {
        let mut groups = self.groups();
        let prefix = &self.setup.kafka.topic_prefix;
        groups.retain(|name, _| {
            group.is_empty() || name == group || name.strip_prefix(prefix.as_str()) == Some(group)
        });
        if groups.is_empty() {
            return Err(ApiError::NotFound("group"));
        }
        let read = self.ask(until, move |kafka| {
            let lag = |(name, topics): (String, Vec<String>)| {
                lag::read(kafka, &name, &topics).map(|partitions| (name, partitions))
            };
            groups.into_iter().map(lag).collect::<Result<Vec<_>, _>>()
        });
        let groups = read.await?.into_iter().map(|(name, partitions)| group_lag(name, &partitions)).collect();
        Ok(proto::OperationsServiceGetLagResponse { groups })
    }

    pub(super) async fn processor_state(
        &self,
        until: Instant,
    ) -> Result<proto::OperationsServiceGetProcessorStateResponse, ApiError> {
        let names: Vec<String> = self.groups().into_keys().collect();
        let read = self.ask(until, move |kafka| {
            let state = |name: String| members::read(kafka, &name).map(|group| (name, group));
            names.into_iter().map(state).collect::<Result<Vec<_>, _>>()
        });
        let groups = read.await?.into_iter().map(|(name, group)| group_state(name, group)).collect();
        let due = pauses::due_state(&self.pool).await?;
        let oldest_urgent = due.oldest_urgent_ms.map(|ms| prost_types::Duration {
            seconds: ms / 1000,
            nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        });
        Ok(proto::OperationsServiceGetProcessorStateResponse {
            groups,
            senders: pauses::senders(&self.pool).await?.iter().map(sender_state).collect(),
            due: Some(proto::DueState { urgent: due.urgent, bulk: due.bulk, oldest_urgent }),
        })
    }
}

fn group_lag(group: String, partitions: &[PartitionLag]) -> proto::GroupLag {
    proto::GroupLag {
        group,
        lag: partitions.iter().map(PartitionLag::lag).sum(),
        partitions: partitions
            .iter()
            .map(|one| proto::PartitionLag {
                topic: one.topic.clone(),
                partition: one.partition,
                committed: one.committed,
                end: one.high,
                lag: one.lag(),
            })
            .collect(),
    }
}

fn group_state(name: String, group: Option<Group>) -> proto::GroupState {
    let Group { state, members } = group.unwrap_or(Group { state: String::new(), members: Vec::new() });
    let members = members.into_iter().map(|member| proto::GroupMember {
        member_id: member.id,
        client_id: member.client_id,
        partitions: member.partitions.iter().map(|(topic, number)| format!("{topic}/{number}")).collect(),
    });
    proto::GroupState { group: name, state, members: members.collect() }
}

fn sender_state(sender: &Sender) -> proto::SenderState {
    proto::SenderState {
        sender_id: sender.owner.to_string(),
        role: sender.role.clone(),
        started_at: Some(timestamp_to(sender.started_at)),
        seen_at: Some(timestamp_to(sender.seen_at)),
        breakers_open: sender.breakers_open.iter().map(|&channel| channel_to(channel).into()).collect(),
    }
}
