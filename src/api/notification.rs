//! `NotificationService`.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::convert::{
    channel_to, purpose_from, purpose_to, state_to, strategy_from, strategy_to, timestamp_to, urgency_from,
    urgency_to,
};
use super::error::ApiError;
use super::guard::Deadline;
use super::proto;
use super::publisher::{PublishError, Publisher};
use super::token::Position;
use super::validate::Violations;
use crate::domain::{NotificationId, NotificationRequested, Redacted, Strategy, Urgency};
use crate::record::read::{self, DeliveryView, NotificationView, WhyLine};

/// How far ahead a message may expire: beyond any schedule (`plan.schedule_max_ms`).
const EXPIRES_AT_MAX: SignedDuration = SignedDuration::from_hours(732 * 24);
/// The record on the topic has no earlier times.
const EARLIEST: Timestamp = Timestamp::constant(946_684_800, 0);
// Bounds of the record on the topic (`avro/pat.notifications.v1.avsc`): a request
// that we take over must not become a dead letter there.
const VARIABLES_MAX: usize = 20;
const VARIABLE_NAME_MAX_BYTES: usize = 64;
const VARIABLE_VALUE_MAX_CHARS: usize = 500;
/// Pause between looks at the database for a notification that is on its way: it
/// doubles, with jitter, up to the greater one.
const LOOK_INITIAL: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Takes requests over and tells what became of them.
#[derive(Debug)]
pub struct Notifications {
    /// To the broker.
    pub publisher: Publisher,
    /// To the database.
    pub pool: Pool,
    /// How far ahead a message may be scheduled: `plan.schedule_max_ms`.
    pub schedule_max: SignedDuration,
}

#[tonic::async_trait]
impl proto::notification_service_server::NotificationService for Notifications {
    async fn send(
        &self,
        request: Request<proto::NotificationServiceSendRequest>,
    ) -> Result<Response<proto::NotificationServiceSendResponse>, Status> {
        let deadline = Deadline::of(&request);
        let mut violations = Violations::default();
        let caller = violations.caller(request.metadata());
        let requested =
            requested(request.into_inner(), caller, Timestamp::now(), self.schedule_max, violations)?;
        let id = NotificationId::for_request(&requested.caller, &requested.idempotency_key);
        let position = timeout_at(deadline.for_work(), self.publisher.publish(requested))
            .await
            .unwrap_or_else(|_| {
                Err(PublishError::Broker("no acknowledgement before the deadline".to_owned()))
            })
            .map_err(ApiError::from)?;
        Ok(Response::new(proto::NotificationServiceSendResponse {
            notification_id: id.to_string(),
            consistency_token: position.to_token(),
        }))
    }

    async fn get(
        &self,
        request: Request<proto::NotificationServiceGetRequest>,
    ) -> Result<Response<proto::NotificationServiceGetResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (id, wait) = wanted(&request.into_inner())?;
        let view = if wait {
            self.read_when_there(id, deadline.for_work()).await?.ok_or(ApiError::NotYetProcessed)?
        } else {
            read::notification(&self.pool, id)
                .await
                .map_err(ApiError::from)?
                .ok_or(ApiError::NotFound("notification"))?
        };
        Ok(Response::new(answer(view)))
    }
}

impl Notifications {
    /// Looks until the notification is there; `None` when it is not by `until`.
    async fn read_when_there(
        &self,
        id: NotificationId,
        until: Instant,
    ) -> Result<Option<NotificationView>, ApiError> {
        let mut pause = LOOK_INITIAL;
        loop {
            match timeout_at(until, read::notification(&self.pool, id)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Ok(None),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left <= LOOK_INITIAL {
                return Ok(None);
            }
            // The last look is shortly before the end, not a whole pause before it.
            sleep(pause.mul_f64(rand::random_range(0.5..1.0)).min(left - LOOK_INITIAL)).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

/// Checks a request and turns it into the event that says the same.
fn requested(
    message: proto::NotificationServiceSendRequest,
    caller: String,
    now: Timestamp,
    schedule_max: SignedDuration,
    mut faults: Violations,
) -> Result<NotificationRequested, ApiError> {
    faults.opaque("idempotency_key", &message.idempotency_key);
    let patient_id = faults.patient_id("patient_id", &message.patient_id);
    if let Some(recipient) = &message.recipient_id {
        faults.opaque("recipient_id", recipient);
    }
    let purpose = faults.required_word("purpose", message.purpose, purpose_from);
    let urgency = faults.word("urgency", message.urgency, urgency_from).unwrap_or(Urgency::Normal);
    let strategy = faults.word("strategy", message.strategy, strategy_from).unwrap_or(Strategy::InOrder);
    let channels = faults.channels("channels", &message.channels);
    let send_at = faults.timestamp("send_at", message.send_at);
    let expires_at = faults.timestamp("expires_at", message.expires_at);
    check_times(send_at, expires_at, now, schedule_max, &mut faults);
    check_variables(&message.variables, &mut faults);
    faults.finish()?;
    let (Some(patient_id), Some(purpose)) = (patient_id, purpose) else {
        return Err(ApiError::invalid("patient_id", "cannot be used together with this purpose"));
    };
    Ok(NotificationRequested {
        caller,
        idempotency_key: message.idempotency_key,
        patient_id,
        recipient: message.recipient_id,
        purpose,
        urgency,
        channels,
        strategy,
        // Past is at once. It is passed on all the same: a repeat of this call, later,
        // must be the same request.
        send_at: send_at.filter(|&send_at| send_at >= EARLIEST),
        expires_at,
        variables: Redacted::new(message.variables.into_iter().collect()),
        requested_at: now,
    })
}

fn check_times(
    send_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    now: Timestamp,
    schedule_max: SignedDuration,
    faults: &mut Violations,
) {
    if send_at.is_some_and(|send_at| send_at.duration_since(now) > schedule_max) {
        faults.add("send_at", format!("must be at most {} hours ahead", schedule_max.as_hours()));
    }
    if let Some(expires_at) = expires_at {
        let near = expires_at.duration_since(now) <= EXPIRES_AT_MAX;
        faults.require(near, "expires_at", "must be at most 732 days ahead");
        // The record on the topic has milliseconds, and must have an end after its begin.
        let is_after = |time: Timestamp| expires_at.as_millisecond() > time.as_millisecond();
        faults.require(is_after(now), "expires_at", "must be in the future");
        let after = send_at.is_none_or(is_after);
        faults.require(after, "expires_at", "must be later than send_at");
    }
}

/// Descriptions name neither names nor values: a caller may have mixed them up.
fn check_variables(variables: &BTreeMap<String, String>, faults: &mut Violations) {
    faults.require(variables.len() <= VARIABLES_MAX, "variables", "has more than 20 entries");
    let name_ok = |name: &String| {
        name.len() <= VARIABLE_NAME_MAX_BYTES
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    faults.require(
        variables.keys().all(name_ok),
        "variables",
        "has a name that is not 1 to 64 characters of a-z 0-9 _, beginning with a letter",
    );
    let short = |value: &String| value.chars().count() <= VARIABLE_VALUE_MAX_CHARS;
    faults.require(variables.values().all(short), "variables", "has a value of more than 500 characters");
    let plain = |value: &String| value.chars().all(|c| c == '\n' || !c.is_control());
    faults.require(variables.values().all(plain), "variables", "has a value with a control character");
}

/// Which notification a Get is about, and whether to wait for it.
fn wanted(message: &proto::NotificationServiceGetRequest) -> Result<(NotificationId, bool), ApiError> {
    let mut faults = Violations::default();
    let id = Uuid::try_parse(&message.notification_id);
    faults.require(id.is_ok(), "notification_id", "must be a UUID, as Send answered it");
    let token = message.consistency_token.as_deref().filter(|token| !token.is_empty());
    if let Some(token) = token {
        let known = Position::from_token(token).is_some();
        faults.require(known, "consistency_token", "must be one that Send answered");
    }
    faults.finish()?;
    Ok((NotificationId(id.unwrap_or_default()), token.is_some()))
}

fn answer(view: NotificationView) -> proto::NotificationServiceGetResponse {
    let why = view.why.into_iter().map(why_entry).collect();
    let notification = proto::Notification {
        notification_id: view.id.to_string(),
        patient_id: view.patient_id.as_str().to_owned(),
        purpose: purpose_to(view.purpose).into(),
        urgency: urgency_to(view.urgency).into(),
        state: state_to(view.state).into(),
        reason: view.reason.as_str().to_owned(),
        sequence: view.sequence,
        published_at: Some(timestamp_to(view.published_at)),
        accepted_at: Some(timestamp_to(view.accepted_at)),
        expires_at: Some(timestamp_to(view.expires_at)),
        updated_at: Some(timestamp_to(view.updated_at)),
        strategy: strategy_to(view.strategy).into(),
        deliveries: view.deliveries.into_iter().map(delivery).collect(),
    };
    proto::NotificationServiceGetResponse { notification: Some(notification), why }
}

fn delivery(view: DeliveryView) -> proto::Delivery {
    proto::Delivery {
        delivery_id: view.id.to_string(),
        channel: channel_to(view.channel).into(),
        state: state_to(view.state).into(),
        reason: view.reason.as_str().to_owned(),
        attempts: view.attempts,
        provider: view.provider.unwrap_or_default(),
        provider_message_id: view.provider_message_id.unwrap_or_default(),
        created_at: Some(timestamp_to(view.created_at)),
        first_attempt_at: view.first_attempt_at.map(timestamp_to),
        due_at: view.due_at.map(timestamp_to),
        updated_at: Some(timestamp_to(view.updated_at)),
    }
}

fn why_entry(line: WhyLine) -> proto::WhyEntry {
    proto::WhyEntry {
        at: Some(timestamp_to(line.at)),
        step: line.step,
        state: state_to(line.state).into(),
        reason: line.reason.as_str().to_owned(),
        channel: line.channel.map_or(proto::Channel::Unspecified, channel_to).into(),
        detail: line.detail.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Channel, Purpose};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn message() -> proto::NotificationServiceSendRequest {
        proto::NotificationServiceSendRequest {
            idempotency_key: "key-1".into(),
            patient_id: "pat-1".into(),
            purpose: proto::Purpose::General.into(),
            ..Default::default()
        }
    }

    fn check(message: proto::NotificationServiceSendRequest) -> Result<NotificationRequested, Vec<String>> {
        let year = SignedDuration::from_hours(366 * 24);
        requested(message, "local".into(), now(), year, Violations::default()).map_err(|error| match error {
            ApiError::Invalid(faults) => faults.into_iter().map(|fault| fault.field).collect(),
            other => panic!("{other}"),
        })
    }

    fn days(days: i64) -> Option<prost_types::Timestamp> {
        Some(timestamp_to(now() + SignedDuration::from_hours(24 * days)))
    }

    #[test]
    fn the_least_request_is_normal_and_at_once() {
        let event = check(message()).unwrap();
        assert_eq!((event.purpose, event.urgency), (Purpose::General, Urgency::Normal));
        assert_eq!((event.send_at, event.expires_at, event.recipient), (None, None, None));
        assert_eq!(event.strategy, Strategy::InOrder);
        assert!(event.channels.is_empty() && event.variables.expose().is_empty());
        assert_eq!(event.requested_at, now());
    }

    #[test]
    fn a_full_request_comes_through_whole() {
        let event = check(proto::NotificationServiceSendRequest {
            recipient_id: Some("rcp-1".into()),
            urgency: proto::Urgency::Bulk.into(),
            channels: vec![proto::Channel::Push.into(), proto::Channel::Sms.into()],
            send_at: days(1),
            expires_at: days(2),
            strategy: proto::Strategy::AllAtOnce.into(),
            variables: [("clinic".to_owned(), "line\nline".to_owned())].into(),
            ..message()
        })
        .unwrap();
        assert_eq!(event.channels, [Channel::Push, Channel::Sms]);
        assert_eq!((event.urgency, event.strategy), (Urgency::Bulk, Strategy::AllAtOnce));
        assert_eq!(event.recipient.as_deref(), Some("rcp-1"));
        assert_eq!(event.variables.expose()[0].0, "clinic");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = check(proto::NotificationServiceSendRequest {
            idempotency_key: "has space".into(),
            patient_id: String::new(),
            recipient_id: Some("Jane Doe".into()),
            purpose: 0,
            urgency: 99,
            strategy: 99,
            channels: vec![0, 1, 1],
            send_at: days(367),
            expires_at: days(-1),
            variables: [("Bad-Name".to_owned(), "\u{7}".to_owned())].into(),
        })
        .unwrap_err();
        assert_eq!(
            faults,
            [
                "idempotency_key",
                "patient_id",
                "recipient_id",
                "purpose",
                "urgency",
                "strategy",
                "channels[0]",
                "channels[2]",
                "send_at",
                "expires_at",
                "expires_at",
                "variables",
                "variables",
            ]
        );
    }

    #[test]
    fn what_is_taken_over_fits_the_record_on_the_topic() {
        let past = check(proto::NotificationServiceSendRequest { send_at: days(-20_000), ..message() });
        assert_eq!(past.unwrap().send_at, None, "long past is at once");
        let late = check(proto::NotificationServiceSendRequest { send_at: days(-1), ..message() });
        let late = late.unwrap().send_at.map(timestamp_to);
        assert_eq!(late, days(-1), "a repeat after its time is the same request");
        let soon = Some(timestamp_to(now() + SignedDuration::from_micros(900)));
        let faults = check(proto::NotificationServiceSendRequest { expires_at: soon, ..message() });
        assert_eq!(faults.unwrap_err(), ["expires_at"], "the same millisecond");
    }

    #[test]
    fn bounds_of_variables_hold() {
        let with = |variables| check(proto::NotificationServiceSendRequest { variables, ..message() });
        let many = |n: usize| (0..n).map(|i| (format!("v{i}"), String::new())).collect();
        assert!(with(many(20)).is_ok());
        assert!(with(many(21)).is_err());
        assert!(with([("v".to_owned(), "ü".repeat(500))].into()).is_ok());
        assert!(with([("v".to_owned(), "x".repeat(501))].into()).is_err());
        assert!(with([(String::new(), String::new())].into()).is_err());
    }

    #[test]
    fn a_get_needs_a_uuid_and_a_token_of_ours() {
        let get = |id: &str, token: Option<&str>| {
            wanted(&proto::NotificationServiceGetRequest {
                notification_id: id.into(),
                consistency_token: token.map(str::to_owned),
            })
        };
        let id = NotificationId::for_request("local", "key-1").to_string();
        assert!(!get(&id, None).unwrap().1);
        assert!(!get(&id, Some("")).unwrap().1);
        let token = Position { topic: "t".into(), partition: 0, offset: 0 }.to_token();
        assert!(get(&id, Some(&token)).unwrap().1);
        assert!(get("", None).is_err());
        assert!(get(&id, Some("x")).is_err());
    }
}
