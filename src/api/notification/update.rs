//! `Cancel` and `MarkRead`: from a call to the update that says the same.
//!
//! The database is not asked: what the notification is like, and whether there is
//! one, the update's consumer finds out. So a cancellation may overtake its request.

use jiff::Timestamp;

use crate::api::auth::{Caller, Scope};
use crate::api::convert::engagement_from;
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::{EARLIEST, Violations};
use crate::domain::{Engagement, Fact, NotificationId, NotificationUpdate};

/// A cancellation in an update's id, beside the words of [`Engagement`].
const CANCEL: &str = "cancel";

/// A notification is taken back.
pub(super) fn cancelled(
    message: &proto::NotificationServiceCancelRequest,
    caller: &Caller,
    now: Timestamp,
) -> Result<(NotificationUpdate, NotificationId), ApiError> {
    let mut faults = Violations::default();
    let notification_id = faults.notification_id("notification_id", &message.notification_id);
    faults.finish()?;
    // Whose it is, the database knows, which is not asked here.
    let only_of = (!caller.may(Scope::NotificationsAll)).then(|| caller.name.clone());
    let fact = Fact::Cancelled { notification_id, caller: only_of };
    Ok((update(caller.name.clone(), notification_id, CANCEL, now, fact), notification_id))
}

/// A recipient did something with a notification.
pub(super) fn engaged(
    message: &proto::NotificationServiceMarkReadRequest,
    caller: String,
    now: Timestamp,
) -> Result<(NotificationUpdate, NotificationId, Engagement), ApiError> {
    let mut faults = Violations::default();
    let notification_id = faults.notification_id("notification_id", &message.notification_id);
    let engagement = faults.required_word("engagement", message.engagement, engagement_from);
    let occurred_at = faults.timestamp("occurred_at", message.occurred_at);
    faults.past("occurred_at", occurred_at, now);
    let meant = occurred_at.is_none_or(|at| at >= EARLIEST);
    faults.require(meant, "occurred_at", "must not be before the year 2000");
    faults.finish()?;
    let engagement = engagement.ok_or_else(|| ApiError::invalid("engagement", "is required"))?;
    let fact = Fact::Engaged { notification_id, engagement };
    let at = occurred_at.unwrap_or(now);
    Ok((update(caller, notification_id, engagement.as_str(), at, fact), notification_id, engagement))
}

fn update(
    caller: String,
    notification_id: NotificationId,
    word: &str,
    occurred_at: Timestamp,
    fact: Fact,
) -> NotificationUpdate {
    NotificationUpdate {
        update_id: notification_id.update_id(&caller, word),
        occurred_at,
        source: caller,
        patient_id: None,
        fact,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::api::convert::timestamp_to;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn id() -> NotificationId {
        NotificationId::for_request("scheduling", "key-1")
    }

    fn fields<T>(result: Result<T, ApiError>) -> Vec<String> {
        match result {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }

    fn cancel(text: &str, caller: &str, now: Timestamp) -> Result<NotificationUpdate, ApiError> {
        let message = proto::NotificationServiceCancelRequest { notification_id: text.to_owned() };
        cancelled(&message, &Caller::new(caller.to_owned(), vec![Scope::NotificationsSend]), now)
            .map(|(update, _)| update)
    }

    fn mark(
        engagement: i32,
        occurred_at: Option<Timestamp>,
    ) -> Result<(NotificationUpdate, Engagement), ApiError> {
        let message = proto::NotificationServiceMarkReadRequest {
            notification_id: id().to_string(),
            engagement,
            occurred_at: occurred_at.map(timestamp_to),
        };
        engaged(&message, "portal".to_owned(), now()).map(|(update, _, engagement)| (update, engagement))
    }

    #[test]
    fn the_same_cancellation_again_is_the_same_update() {
        let first = cancel(&id().to_string(), "scheduling", now()).unwrap();
        let later = now() + SignedDuration::from_secs(1);
        let again = cancel(&id().to_string().to_uppercase(), "scheduling", later).unwrap();
        let of_another = cancel(&id().to_string(), "portal", now()).unwrap();
        let caller = Some("scheduling".to_owned());
        assert_eq!(first.fact, Fact::Cancelled { notification_id: id(), caller });
        assert_eq!((first.source.as_str(), first.occurred_at), ("scheduling", now()));
        assert_eq!(first.key(), id().to_string(), "the patient is not known");
        assert_eq!(first.update_id, again.update_id);
        assert_ne!(first.update_id, of_another.update_id);
    }

    #[test]
    fn each_engagement_is_an_update_of_its_own() {
        let mut ids = Vec::new();
        for word in [proto::Engagement::Seen, proto::Engagement::Read, proto::Engagement::Acted] {
            let (update, engagement) = mark(word.into(), None).unwrap();
            assert_eq!(engagement_from(word), Some(engagement));
            assert_eq!(update.fact, Fact::Engaged { notification_id: id(), engagement });
            assert_eq!(update.occurred_at, now());
            ids.push(update.update_id);
        }
        ids.push(cancel(&id().to_string(), "portal", now()).unwrap().update_id);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        assert_eq!(fields(cancel("", "scheduling", now())), ["notification_id"]);
        let message = proto::NotificationServiceMarkReadRequest {
            notification_id: "visit-4711".to_owned(),
            engagement: 0,
            occurred_at: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
        };
        let faults = engaged(&message, "portal".to_owned(), now());
        assert_eq!(fields(faults), ["notification_id", "engagement", "occurred_at"]);
        assert_eq!(fields(mark(99, None)), ["engagement"]);
    }

    #[test]
    fn what_is_taken_over_fits_the_record_on_the_topic() {
        let read = proto::Engagement::Read.into();
        let (update, _) = mark(read, Some(EARLIEST)).unwrap();
        assert_eq!(update.occurred_at, EARLIEST);
        let too_early = EARLIEST - SignedDuration::from_millis(1);
        assert_eq!(fields(mark(read, Some(too_early))), ["occurred_at"]);
        let ahead = |seconds| Some(now() + SignedDuration::from_secs(seconds));
        assert!(mark(read, ahead(300)).is_ok(), "clocks differ");
        assert_eq!(fields(mark(read, ahead(301))), ["occurred_at"]);
    }
}
