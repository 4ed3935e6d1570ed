//! Reading one's own writes, through any replica: waiting until what a token stands
//! for has been processed, and the truth about what came of it.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::error::ApiError;
use crate::api::token::{Awaited, Token};
use crate::domain::NotificationId;
use crate::record::list;
use crate::record::read::{self, NotificationView};
use crate::topic::progress::{Offsets, Progress, Reading};

/// Pause between looks at the database for a notification that is on its way: it
/// doubles, with jitter, up to the greater one.
const LOOK_INITIAL: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);
/// What comes by itself mostly comes within this time; only after it the brokers are
/// asked how far processing is.
const ASK_AFTER: Duration = Duration::from_millis(300);

/// A wait for what a token stands for.
pub(super) struct Wait<'a> {
    pool: &'a Pool,
    progress: &'a Progress,
    token: &'a Token,
    begun: Instant,
    until: Instant,
    pause: Duration,
    /// The record of the token has been processed.
    passed: bool,
    /// Ends of the request topics, once the record of an update was processed.
    ends: Option<Offsets>,
    /// Every request that was acknowledged before the call has been processed.
    caught_up: bool,
}

impl<'a> Wait<'a> {
    pub(super) fn new(pool: &'a Pool, progress: &'a Progress, token: &'a Token, until: Instant) -> Self {
        let begun = Instant::now();
        let (passed, ends, caught_up) = (false, None, false);
        Self { pool, progress, token, begun, until, pause: LOOK_INITIAL, passed, ends, caught_up }
    }

    /// The notification, once it shows what the token stands for, or once that has been
    /// processed without showing.
    ///
    /// # Errors
    /// [`ApiError::NotFound`]: it was processed, and there is none.
    /// [`ApiError::NotYetProcessed`]: not in time.
    pub(super) async fn notification(mut self, id: NotificationId) -> Result<NotificationView, ApiError> {
        loop {
            // What is known of the progress was known before this look.
            let look = timeout_at(self.until, read::notification(self.pool, id));
            match look.await.map_err(|_| ApiError::NotYetProcessed)?? {
                Some(view) if self.passed || shows(&view, self.token.awaited) => return Ok(view),
                None if self.comes_no_more() => return Err(ApiError::NotFound("notification")),
                _ => self.later().await?,
            }
        }
    }

    /// Ends once the record of the token has been processed, as far as its notification
    /// is concerned.
    ///
    /// # Errors
    /// As [`Wait::notification`], but never that there is none.
    pub(super) async fn processed(mut self) -> Result<(), ApiError> {
        // What came later than the request is only seen by progress.
        let about = self.token.about.filter(|_| self.token.awaited == Awaited::Notification);
        loop {
            if self.passed {
                return Ok(());
            }
            if let Some(id) = about {
                let look = timeout_at(self.until, list::exists(self.pool, id));
                if look.await.map_err(|_| ApiError::NotYetProcessed)?? {
                    return Ok(());
                }
            }
            self.later().await?;
        }
    }

    /// An update may come before its request. It comes to nothing only when every
    /// request that could be its own has been processed as well.
    const fn comes_no_more(&self) -> bool {
        match self.token.awaited {
            Awaited::Notification => self.passed,
            Awaited::Cancelled | Awaited::Engaged(_) => self.passed && self.caught_up,
        }
    }

    /// A pause, and a look at how far processing is.
    async fn later(&mut self) -> Result<(), ApiError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left <= LOOK_INITIAL {
            return Err(ApiError::NotYetProcessed);
        }
        // The last look is shortly before the end, not a whole pause before it.
        sleep(self.pause.mul_f64(rand::random_range(0.5..1.0)).min(left - LOOK_INITIAL)).await;
        self.pause = (self.pause * 2).min(LOOK_MAX);
        if self.begun.elapsed() >= ASK_AFTER {
            // Brokers that do not answer in time leave it open; the looks go on.
            return timeout_at(self.until, self.ask()).await.unwrap_or(Ok(()));
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), ApiError> {
        let place = &self.token.position;
        if !self.passed {
            let reading = self.progress.since(&place.topic, Instant::now()).await;
            let Ok(Some(reading)) = reading else { return Ok(()) };
            check_range(self.token, &reading)?;
            self.passed = reading.has_passed(&place.topic, place.partition, place.offset);
        }
        if self.passed && self.token.awaited != Awaited::Notification && !self.caught_up {
            if self.ends.is_none() {
                self.ends = self.progress.ends_of_requests().await.ok();
            }
            if let (Some(ends), Ok(reading)) =
                (&self.ends, self.progress.requests_since(Instant::now()).await)
            {
                self.caught_up = reading.covers(ends);
            }
        }
        Ok(())
    }
}

fn check_range(token: &Token, reading: &Reading) -> Result<(), ApiError> {
    let count = reading.partitions.get(&token.position.topic).copied().unwrap_or(0);
    // A topic that is not there yet has none.
    if count == 0 || token.position.partition < count { Ok(()) } else { Err(not_ours()) }
}

fn not_ours() -> ApiError {
    ApiError::invalid("consistency_token", "must be one that this service answered")
}

/// The token of a call, which may be about one notification.
///
/// # Errors
/// [`ApiError::Invalid`] when it is none of this service, or about another one.
pub(super) fn token(
    text: Option<&str>,
    id: Option<NotificationId>,
    progress: &Progress,
) -> Result<Option<Token>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let token = Token::from_text(text).filter(|token| progress.knows(&token.position.topic));
    let token = token.ok_or_else(not_ours)?;
    if let (Some(about), Some(id)) = (token.about, id)
        && about != id
    {
        return Err(ApiError::invalid("consistency_token", "is about another notification"));
    }
    Ok(Some(token))
}

/// Once a record was processed, what it brings can be seen for ever.
fn shows(view: &NotificationView, awaited: Awaited) -> bool {
    match awaited {
        Awaited::Notification => true,
        Awaited::Cancelled => view.cancelled_at.is_some(),
        Awaited::Engaged(engagement) => view.engagement.is_some_and(|(known, _)| known >= engagement),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::token::Position;
    use crate::config::Config;

    fn text(topic: &str, about: Option<NotificationId>) -> String {
        let position = Position { topic: topic.to_owned(), partition: 0, offset: 0 };
        Token { position, awaited: Awaited::Notification, about }.to_text()
    }

    #[test]
    fn tokens_of_other_topics_and_notifications_are_refused() {
        let progress = Progress::new(&Config::from_defaults().kafka);
        let id = NotificationId::for_request("local", "key-1");
        let other = NotificationId::for_request("local", "key-2");
        let read = |text: &str| token(Some(text), Some(id), &progress);
        assert!(token(None, Some(id), &progress).unwrap().is_none());
        assert!(read("").unwrap().is_none());
        assert!(read(&text("pat.notifications.v1", None)).unwrap().is_some());
        assert!(read(&text("pat.notifications-bulk.v1", Some(id))).unwrap().is_some());
        assert!(read(&text("pat.notification-updates.v1", Some(id))).unwrap().is_some());
        assert!(read(&text("pat.notifications.v1", Some(other))).is_err());
        assert!(read(&text("pat.test-results.v1", Some(id))).is_err());
        assert!(read("x").is_err());
    }
}
