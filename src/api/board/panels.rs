//! Where each panel comes from, how often it is read, and how long that may take.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::hub::Hub;
use super::snapshot::{Batch, Group, Letters, Provider, Queue, Steps, Tick, Wanted};
use crate::api::operations;
use crate::config;
use crate::deliver::provider_name;
use crate::domain::Channel;
use crate::lag::{Reader, Window};
use crate::record::batches::{self, ListQuery};
use crate::record::pauses::{self, ChannelPause, Sender};
use crate::record::{Owner, RecordError, Store, funnel, ticks_list};
use crate::scaler::proto::v1::ScalerServiceExplainRequest;
use crate::scaler::proto::v1::scaler_service_client::ScalerServiceClient;
use crate::topic::lag;
use crate::topic::names::{self, dlq_of};

/// Rates are means over this time.
const RATES_OVER: Duration = Duration::from_secs(15);
const SCALER_TIMEOUT: Duration = Duration::from_secs(3);
const BATCHES_MAX: i64 = 10;
const TICKS_MAX: u32 = 12;

const fn seconds(every: u64, longest: u64) -> (Duration, Duration) {
    (Duration::from_secs(every), Duration::from_secs(longest))
}

/// How a group stands, each second.
pub(super) fn watch_group(
    hub: &Arc<Hub>,
    kafka: &config::Kafka,
    group: String,
    topics: Vec<String>,
    shutdown: &CancellationToken,
) {
    let reader = match Reader::of_topics(kafka, &group, topics) {
        Ok(reader) => reader,
        Err(error) => {
            hub.note(|panels| panels.groups.entry(group).or_default().take(Err(error.to_string())));
            return;
        }
    };
    let mut window = Window::new(RATES_OVER);
    let read = async move || -> Result<Group, String> {
        window.push(reader.read().await.map_err(|error| error.to_string())?);
        window.standing().map(Group::from).ok_or_else(|| "nothing was read".to_owned())
    };
    let keep = Arc::clone(hub).keep(seconds(1, 3), shutdown.clone(), read, move |panels| {
        panels.groups.entry(group.clone()).or_default()
    });
    tokio::spawn(keep);
}

/// What the database knows.
pub(super) fn watch_database(
    hub: &Arc<Hub>,
    pool: &Pool,
    setup: &operations::Setup,
    shutdown: &CancellationToken,
) {
    let (of_hub, stop) = (|| Arc::clone(hub), || shutdown.clone());
    let (here, store) = (of_hub(), Store::new(pool.clone(), Owner::new()));
    let queues = async move || {
        let _place = here.database().await;
        let depths = store.depths().await.map_err(said)?;
        Ok(depths
            .into_iter()
            .map(|one| Queue {
                queue: one.queue,
                urgency: one.urgency,
                due: one.due,
                oldest_s: one.oldest.as_secs_f64(),
            })
            .collect())
    };
    tokio::spawn(of_hub().keep(seconds(2, 3), stop(), queues, |panels| &mut panels.queues));

    let (here, pool_of, enabled) = (of_hub(), pool.clone(), setup.enabled.clone());
    let providers = async move || {
        let _place = here.database().await;
        let paused = pauses::pauses(&pool_of).await.map_err(said)?;
        let senders = pauses::senders(&pool_of).await.map_err(said)?;
        let held = pauses::held_by_pause(&pool_of).await.map_err(said)?;
        Ok(Channel::ALL
            .iter()
            .map(|&channel| provider(channel, &enabled, &paused, &senders, &held))
            .collect())
    };
    tokio::spawn(of_hub().keep(seconds(1, 3), stop(), providers, |panels| &mut panels.providers));

    let (here, pool_of) = (of_hub(), pool.clone());
    let steps = async move || {
        let _place = here.database().await;
        funnel::newest(&pool_of).await.map(Steps::from).map_err(said)
    };
    tokio::spawn(of_hub().keep(seconds(3, 10), stop(), steps, |panels| &mut panels.funnel));

    let (here, pool_of) = (of_hub(), pool.clone());
    let batches = async move || {
        let _place = here.database().await;
        recent_batches(&pool_of).await.map_err(said)
    };
    tokio::spawn(of_hub().keep(seconds(2, 8), stop(), batches, |panels| &mut panels.batches));

    let (here, pool_of) = (of_hub(), pool.clone());
    let ticks = async move || {
        let _place = here.database().await;
        recent_ticks(&pool_of).await.map_err(said)
    };
    tokio::spawn(of_hub().keep(seconds(5, 8), stop(), ticks, |panels| &mut panels.cron));
}

/// How many records lie on the dead-letter topics.
pub(super) fn watch_letters(hub: &Arc<Hub>, kafka: &config::Kafka, shutdown: &CancellationToken) {
    let kafka = kafka.clone();
    let read = async move || {
        let kafka = kafka.clone();
        let look = tokio::task::spawn_blocking(move || letters(&kafka));
        look.await.map_err(|error| error.to_string())?
    };
    tokio::spawn(Arc::clone(hub).keep(seconds(5, 20), shutdown.clone(), read, |panels| &mut panels.letters));
}

/// How many replicas the scaler wants.
pub(super) fn watch_scaler(hub: &Arc<Hub>, url: &str, shutdown: &CancellationToken) {
    let endpoint = match Endpoint::from_shared(url.to_owned()) {
        Ok(endpoint) => endpoint.connect_timeout(SCALER_TIMEOUT).timeout(SCALER_TIMEOUT),
        Err(error) => {
            tracing::warn!(%error, "app.scaler_url is no address: the board does not show what is wanted");
            return;
        }
    };
    let scaler = ScalerServiceClient::new(endpoint.connect_lazy());
    let read = async move || {
        let answer = scaler.clone().explain(ScalerServiceExplainRequest::default()).await;
        let decisions = answer.map_err(|status| status.message().to_owned())?.into_inner().decisions;
        let wanted = decisions.into_iter().map(|one| Wanted {
            deployment: one.deployment,
            replicas: one.replicas,
            rate_per_s: one.rate_per_s,
            stale: one.stale,
            why: one.text,
        });
        Ok(wanted.collect())
    };
    tokio::spawn(Arc::clone(hub).keep(seconds(2, 5), shutdown.clone(), read, |panels| &mut panels.wanted));
}

fn letters(kafka: &config::Kafka) -> Result<Vec<Letters>, String> {
    let topics = names::groups(&kafka.topic_prefix).into_values().flatten().map(|topic| dlq_of(&topic));
    // A group that commits nothing: all that is kept is its lag.
    let read = lag::read(kafka, "board", &topics.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
    let mut by_topic = std::collections::BTreeMap::<String, i64>::new();
    for one in read {
        *by_topic.entry(one.topic.clone()).or_default() += one.high - one.low;
    }
    Ok(by_topic.into_iter().map(|(topic, kept)| Letters { topic, kept }).collect())
}

fn provider(
    channel: Channel,
    enabled: &[Channel],
    paused: &[ChannelPause],
    senders: &[Sender],
    held: &[(Channel, i64)],
) -> Provider {
    let pause = paused.iter().find(|pause| pause.channel == channel);
    Provider {
        channel: channel.as_str(),
        provider: provider_name(channel),
        enabled: enabled.contains(&channel),
        open_at: senders.iter().filter(|sender| sender.breakers_open.contains(&channel)).count(),
        senders: senders.len(),
        paused: pause.map(|pause| format!("by {} since {:.0}", pause.paused_by, pause.paused_at)),
        held_by_pause: held.iter().find(|(of, _)| *of == channel).map_or(0, |(_, held)| *held),
    }
}

async fn recent_batches(pool: &Pool) -> Result<Vec<Batch>, RecordError> {
    let query = ListQuery { owner: None, state: None, after: None, limit: BATCHES_MAX };
    let found = batches::list(pool, &query).await?;
    let batch = |one: batches::BatchView| Batch {
        id: one.id.to_string(),
        caller: one.made.caller,
        state: one.state.as_str(),
        published: one.rows_published,
        stored: one.rows_stored,
        per_s: one.measured_per_s,
    };
    Ok(found.into_iter().map(batch).collect())
}

async fn recent_ticks(pool: &Pool) -> Result<Vec<Tick>, RecordError> {
    let found = ticks_list::history(pool, None, TICKS_MAX).await?;
    let tick = |one: ticks_list::TickLine| Tick {
        job: one.job,
        due_at: format!("{:.0}", one.due_at),
        state: one.state,
        fault: one.fault,
        took_s: one.ended_at.map(|ended| ended.duration_since(one.started_at).as_secs_f64()),
    };
    Ok(found.into_iter().map(tick).collect())
}

fn said(error: RecordError) -> String {
    match error {
        // A client's own words may be long, and say nothing more.
        RecordError::Unavailable(_) => "the database does not answer".to_owned(),
        RecordError::Bug(_) => "the database's answer cannot be used (see the log)".to_owned(),
    }
}
