//! `app`: the front.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;

use super::{Context, Unavailable};
use crate::api::notification::{Hub, Means, QuietDefaults};
use crate::api::recipient::Codes;
use crate::api::traced;
use crate::api::webhooks::Webhooks;
use crate::api::{self, Front, Outgoing, Position, PublishError, Publisher, ServeError};
use crate::decode::Decoder;
use crate::deliver::{CodeSender, Renderer};
use crate::domain::{NotificationRequested, NotificationUpdate, Urgency};
use crate::plan::Settings;
use crate::record::{migrate, pool};
use crate::topic::encoder::{EncodeError, Encoder};
use crate::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS, NOTIFICATIONS_BULK, Topic};
use crate::topic::producer::{ProduceError, Producer};
use crate::topic::progress::Progress;
use crate::trace::TRACEPARENT;

/// Serves until the shutdown.
///
/// # Errors
/// When the set-up is faulty: a bad address or URL, a taken port, a schema that lacks
/// migrations. A broker, registry or database that is away is none: calls that need
/// it are answered with UNAVAILABLE until it is back.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    run_with(ctx, Router::new()).await
}

/// As [`run`], with more pages on the same port (`dev`: the sandbox's inbox).
///
/// # Errors
/// As [`run`].
pub async fn run_with(ctx: Context, extra_http: Router) -> anyhow::Result<()> {
    check_schema(&ctx).await?;
    let mut links = vec![("Metrics".to_owned(), format!("http://{}/metrics", ctx.config.metrics.listen))];
    if extra_http.has_routes() {
        links.insert(0, ("Inbox: what the sandbox providers were given".to_owned(), "/inbox".to_owned()));
    }
    let renderer = Arc::new(Renderer::embedded(&ctx.config.plan)?);
    let sender = || CodeSender::from_config(&ctx.config, Arc::clone(&renderer));
    let codes = Codes::new(&ctx.config.app, sender)?;
    let serving = api::serve(Front {
        config: ctx.config.app.clone(),
        auth: ctx.config.auth.clone(),
        publisher: publisher(&ctx)?,
        webhooks: Webhooks::from_config(&ctx.config),
        operations: api::operations::Setup::from_config(&ctx.config),
        pool: pool::pool(&ctx.config.postgres)?,
        schedule_max: Duration::from_millis(ctx.config.plan.schedule_max_ms),
        notifications: Arc::new(means(&ctx)?),
        appointments: ctx.config.appointments.clone(),
        codes,
        renderer,
        extra_http,
        links,
        health: Arc::clone(&ctx.health),
        shutdown: ctx.shutdown.clone(),
    })
    .await
    .map_err(not_serving)?;
    // Neither broker nor database decide on readiness: with one of them away every
    // pod would be taken out at once, and callers would get refused connections
    // where they now get an answer that says what is away and when to come back.
    ctx.health.add_readiness("front", || Ok(()));
    tracing::info!(address = %serving.address, "front is listening");
    serving.finished().await.context("front")
}

/// What tells of notifications, besides the database.
fn means(ctx: &Context) -> anyhow::Result<Means> {
    let config = &ctx.config;
    Ok(Means {
        progress: Progress::new(&config.kafka),
        hub: Hub::new(&config.kafka, Decoder::new(&config.registry, config.processor.payload_max_bytes)?),
        quiet_hours: QuietDefaults {
            hours: Settings::new(&config.plan)?.quiet_hours,
            time_zone: config.plan.default_time_zone.clone(),
        },
        heartbeat: Duration::from_millis(config.app.watch_heartbeat_ms),
        stream_idle: Duration::from_millis(config.app.stream_idle_ms),
        recent_keys_max: config.app.recent_keys_max,
    })
}

/// A port that is taken may be free after a restart; any other fault stays.
fn not_serving(error: ServeError) -> anyhow::Error {
    match error {
        ServeError::Listen { .. } => anyhow::Error::new(error).context(Unavailable("the front's port")),
        ServeError::Address(_)
        | ServeError::NotLoopback(_)
        | ServeError::Auth(_)
        | ServeError::Reflection(_)
        | ServeError::Transport(_)
        | ServeError::Task(_) => error.into(),
    }
}

/// A schema that lacks migrations is a fault of the roll-out, and best found before
/// the old pods are gone. A database that is away now may be back for the first call.
async fn check_schema(ctx: &Context) -> anyhow::Result<()> {
    match migrate::check(&ctx.config.postgres).await {
        Ok(status) if status.is_current() => Ok(()),
        Ok(status) => Err(anyhow!("it lacks {}: run `patient-notify migrate`", status.missing.join(", ")))
            .context(Unavailable("the database's schema")),
        Err(error) if error.is_unavailable() => {
            tracing::warn!(%error, "schema could not be checked; serving all the same");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Everything between a checked call and the broker's acknowledgement.
struct Way {
    encoder: Encoder,
    producer: Producer,
    topic_prefix: String,
}

fn publisher(ctx: &Context) -> anyhow::Result<Publisher> {
    let way = Arc::new(Way {
        encoder: Encoder::new(&ctx.config.registry, &ctx.config.kafka.topic_prefix)?,
        producer: Producer::new(&ctx.config.kafka)?,
        topic_prefix: ctx.config.kafka.topic_prefix.clone(),
    });
    Ok(Publisher::new(move |what| {
        let way = Arc::clone(&way);
        async move {
            match what {
                Outgoing::Request(request) => way.request(&request).await,
                Outgoing::Update(update) => way.update(&update).await,
            }
        }
    }))
}

impl Way {
    async fn request(&self, request: &NotificationRequested) -> Result<Position, PublishError> {
        let topic = topic_of(request.urgency);
        let payload = self.encoder.notification(&topic, request).await.map_err(encode_fault)?;
        self.publish(topic, request.patient_id.as_str(), &payload).await
    }

    async fn update(&self, update: &NotificationUpdate) -> Result<Position, PublishError> {
        let payload = self.encoder.update(update).await.map_err(encode_fault)?;
        self.publish(NOTIFICATION_UPDATES, &update.key(), &payload).await
    }

    async fn publish(&self, topic: Topic, key: &str, payload: &[u8]) -> Result<Position, PublishError> {
        let topic = topic.full_name(&self.topic_prefix);
        let traceparent = traced::of_this_call().map(|trace| trace.to_string());
        let header = traceparent.as_ref().map(|text| (TRACEPARENT, text.as_bytes()));
        let sent = self.producer.send(&topic, Some(key.as_bytes()), Some(payload), header.as_slice()).await;
        let (partition, offset) = sent.map_err(produce_fault)?;
        Ok(Position { topic, partition, offset })
    }
}

fn encode_fault(error: EncodeError) -> PublishError {
    match error {
        // A schema that is not registered yet is there once the roll-out has got to it.
        EncodeError::Registry(_) | EncodeError::NotRegistered { .. } => {
            PublishError::Registry(error.to_string())
        }
        EncodeError::Unencodable { .. } => PublishError::Refused(error.to_string()),
    }
}

fn produce_fault(error: ProduceError) -> PublishError {
    match error {
        ProduceError::Unavailable { .. } => PublishError::Broker(error.to_string()),
        ProduceError::Refused { .. } => PublishError::Refused(error.to_string()),
    }
}

const fn topic_of(urgency: Urgency) -> Topic {
    match urgency {
        Urgency::Bulk => NOTIFICATIONS_BULK,
        Urgency::Normal | Urgency::High | Urgency::Critical => NOTIFICATIONS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bulk_goes_to_the_bulk_topic() {
        for &urgency in Urgency::ALL {
            let bulk = topic_of(urgency).name == NOTIFICATIONS_BULK.name;
            assert_eq!(bulk, urgency == Urgency::Bulk, "{urgency}");
        }
    }
}
