//! `Watch`: status changes as they happen, resumable at any server.
//!
//! One tail a process reads the topic ([`hub`]); a stream takes from it what it is
//! about. A stream knows the next offset of every partition, and so does the token on
//! each of its messages. One that resumes first reads what lies between its token and
//! the place where it joined the tail ([`catch_up`]).

pub(super) mod catch_up;
pub(super) mod hub;
mod token;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;

use super::get::{seen_by, sees};
use super::wait::{self, Wait};
use super::{Notifications, get};
use crate::api::auth::Caller;
use crate::api::convert::{channel_to, purpose_to, state_to, timestamp_to};
use crate::api::error::ApiError;
use crate::api::guard::CALL_MAX;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::{NotificationId, PatientId, StatusChanged};
use crate::record::read::{self, NotificationView};
use catch_up::CatchUp;
use hub::{Event, Fault};

/// Notifications whose last sequence a stream remembers: repeats of the relay come
/// within a batch of it.
const SEEN_MAX: usize = 4096;

/// What goes out.
pub(super) type Changes =
    Pin<Box<dyn Stream<Item = Result<proto::NotificationServiceWatchResponse, Status>> + Send>>;

/// Why a stream cannot be opened, or ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The brokers are away.
    #[error("brokers cannot be reached for a watch: {0}")]
    Broker(String),
    /// The schema registry is away.
    #[error("schema registry cannot be reached for a watch: {0}")]
    Registry(String),
    /// The client reads more slowly than changes come.
    #[error("changes came faster than they were read; open the stream again with the last resume token")]
    Lagged,
    /// What follows a token is gone, or too much.
    #[error(
        "what follows the resume token is not kept any more, or too much; use List, and Watch without a token"
    )]
    TooOld,
}

impl From<Fault> for WatchError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Broker(why) => Self::Broker(why),
            Fault::Registry(why) => Self::Registry(why),
        }
    }
}

/// What a stream is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Notification(NotificationId),
    Patient(PatientId),
    /// All that the caller asked for.
    Own,
}

/// A checked request.
struct Wanted {
    target: Target,
    resume: Option<Vec<i64>>,
    after_sequence: i32,
}

fn wanted(message: &proto::NotificationServiceWatchRequest, caller: &Caller) -> Result<Wanted, ApiError> {
    use proto::notification_service_watch_request::Target as Asked;
    let mut faults = Violations::default();
    let target = match &message.target {
        Some(Asked::NotificationId(id)) => {
            Target::Notification(faults.notification_id("notification_id", id))
        }
        Some(Asked::PatientId(id)) => {
            faults.patient_id("patient_id", id).map_or(Target::Own, Target::Patient)
        }
        None => Target::Own,
    };
    let of_one = matches!(target, Target::Notification(_));
    faults.require(message.after_sequence >= 0, "after_sequence", "must not be negative");
    let needless = message.after_sequence == 0 || of_one;
    faults.require(needless, "after_sequence", "needs a notification_id");
    let tokenless = message.consistency_token.as_deref().is_none_or(str::is_empty) || of_one;
    faults.require(tokenless, "consistency_token", "needs a notification_id");
    let text = message.resume_token.as_deref().filter(|text| !text.is_empty());
    let resume = text.map(|text| token::read(text, token::binding(&target, caller)));
    let known = !matches!(resume, Some(None));
    faults.require(known, "resume_token", "must be from an earlier stream for the same target");
    faults.finish()?;
    Ok(Wanted { target, resume: resume.flatten(), after_sequence: message.after_sequence })
}

/// Opens a stream.
pub(super) async fn open(
    service: &Notifications,
    message: &proto::NotificationServiceWatchRequest,
    caller: Caller,
) -> Result<Changes, ApiError> {
    let until = Instant::now() + CALL_MAX;
    let wanted = wanted(message, &caller)?;
    // Joined before the database is asked: nothing is missed between the two.
    let joined = timeout_at(until, service.means.hub.join()).await;
    let late = |_| WatchError::Broker("no answer in time".to_owned());
    let joined = joined.map_err(late)??;
    let mut watcher = Watcher {
        binding: token::binding(&wanted.target, &caller),
        target: wanted.target,
        caller,
        next: wanted.resume.clone().unwrap_or_else(|| joined.next.clone()),
        seen: Seen::default(),
        first: None,
        said_hello: false,
        catch_up: None,
        live: joined.live,
        faults: joined.faults,
        heartbeat: service.means.heartbeat,
        ended: false,
    };
    if let Target::Notification(id) = watcher.target {
        let text = message.consistency_token.as_deref();
        let view = present(service, id, text, until).await?;
        let view = seen_by(&watcher.caller, view)?;
        watcher.seen.note(id, wanted.after_sequence);
        if wanted.resume.is_none() && view.sequence > wanted.after_sequence {
            watcher.seen.note(id, view.sequence);
            watcher.first = Some(as_change(&view));
        }
    }
    if wanted.resume.is_some() {
        watcher.next.resize(joined.next.len().max(watcher.next.len()), 0);
        let opened = timeout_at(until, service.means.hub.catch_up(&watcher.next, &joined.next)).await;
        watcher.catch_up = opened.map_err(late)??;
    }
    Ok(Box::pin(futures::stream::unfold(watcher, Watcher::message)))
}

async fn present(
    service: &Notifications,
    id: NotificationId,
    token: Option<&str>,
    until: Instant,
) -> Result<NotificationView, ApiError> {
    match wait::token(token, Some(id), &service.means.progress)? {
        Some(token) => {
            Wait::new(&service.pool, &service.means.progress, &token, until).notification(id).await
        }
        None => read::notification(&service.pool, id).await?.ok_or(ApiError::NotFound("notification")),
    }
}

/// The last sequence of notifications that were told of, oldest forgotten first.
#[derive(Default)]
struct Seen {
    last: HashMap<NotificationId, i32>,
    order: VecDeque<NotificationId>,
}

impl Seen {
    /// False when as much was told before.
    fn note(&mut self, id: NotificationId, sequence: i32) -> bool {
        if let Some(last) = self.last.get_mut(&id) {
            let newer = sequence > *last;
            *last = sequence.max(*last);
            return newer;
        }
        if self.order.len() >= SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.last.insert(id, sequence);
        self.order.push_back(id);
        true
    }
}

/// One stream. Dropped with its client.
struct Watcher {
    target: Target,
    caller: Caller,
    binding: u64,
    /// The next offset of each partition that is new to this stream.
    next: Vec<i64>,
    seen: Seen,
    /// The present state of a notification.
    first: Option<proto::StatusChange>,
    /// The client has its first token.
    said_hello: bool,
    catch_up: Option<CatchUp>,
    live: broadcast::Receiver<Event>,
    faults: hub::Faults,
    heartbeat: Duration,
    ended: bool,
}

impl Watcher {
    async fn message(mut self) -> Option<(Result<proto::NotificationServiceWatchResponse, Status>, Self)> {
        if self.ended {
            return None;
        }
        let change = self.change().await;
        self.said_hello = true;
        let message = match change {
            Ok(change) => {
                let resume_token = token::write(&self.next, self.binding);
                Ok(proto::NotificationServiceWatchResponse { change, resume_token })
            }
            Err(error) => {
                self.ended = true;
                Err(error.into_status())
            }
        };
        Some((message, self))
    }

    /// `None`: none for a while. The first message does not wait for one.
    async fn change(&mut self) -> Result<Option<proto::StatusChange>, ApiError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if !self.said_hello {
            return Ok(None);
        }
        let silence = Instant::now() + self.heartbeat;
        loop {
            let event = tokio::select! {
                event = self.event() => event?,
                () = sleep_until(silence) => return Ok(None),
            };
            if let Some(change) = self.take(&event) {
                return Ok(Some(change));
            }
        }
    }

    /// The next one, of whatever target.
    async fn event(&mut self) -> Result<Event, WatchError> {
        if let Some(catch_up) = &mut self.catch_up {
            if let Some(event) = catch_up.next().await? {
                return Ok(event);
            }
            self.catch_up = None;
        }
        match self.live.recv().await {
            Ok(event) => Ok(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Err(WatchError::Lagged),
            Err(broadcast::error::RecvError::Closed) => Err(self.faults.last().into()),
        }
    }

    /// The change, when it is new to this stream and the stream is about it.
    fn take(&mut self, event: &Event) -> Option<proto::StatusChange> {
        let next = self.next.get_mut(event.partition)?;
        if event.offset < *next {
            return None;
        }
        *next = event.offset + 1;
        let change = event.change.as_ref()?;
        let meant = match &self.target {
            Target::Notification(id) => change.notification_id == *id,
            Target::Patient(id) => change.patient_id == *id && sees(&self.caller, change.caller.as_deref()),
            Target::Own => change.caller.as_deref() == Some(self.caller.name.as_str()),
        };
        (meant && self.seen.note(change.notification_id, change.sequence)).then(|| told(change))
    }
}

fn told(change: &StatusChanged) -> proto::StatusChange {
    proto::StatusChange {
        notification_id: change.notification_id.to_string(),
        patient_id: change.patient_id.as_str().to_owned(),
        purpose: purpose_to(change.purpose).into(),
        sequence: change.sequence,
        state: state_to(change.state).into(),
        reason: change.reason.as_str().to_owned(),
        channel: change.channel.map_or(proto::Channel::Unspecified, channel_to).into(),
        changed_at: Some(timestamp_to(change.changed_at)),
    }
}

fn as_change(view: &NotificationView) -> proto::StatusChange {
    let shown = get::notification(view.clone());
    proto::StatusChange {
        notification_id: shown.notification_id,
        patient_id: shown.patient_id,
        purpose: shown.purpose,
        sequence: shown.sequence,
        state: shown.state,
        reason: shown.reason,
        channel: proto::Channel::Unspecified.into(),
        changed_at: shown.updated_at,
    }
}

#[cfg(test)]
mod tests;
