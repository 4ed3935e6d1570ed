//! `Explain`: every decision in words, and what it was made on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{get, list, words};
use crate::api::convert::{channel_to, quiet_hours_to, timestamp_to};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::{NotificationId, QuietHours, Urgency};
use crate::record::explain::{Basis, Consent};
use crate::record::read::{NotificationView, WhyLine};

const PAGE_SIZE_MAX: usize = 500;

/// The quiet hours of recipients who chose none.
#[derive(Debug, Clone)]
pub struct QuietDefaults {
    /// `plan.quiet_hours_start` and `plan.quiet_hours_end`.
    pub hours: QuietHours,
    /// `plan.default_time_zone`.
    pub time_zone: String,
}

/// Which page of the reasons a request is about.
pub(super) struct Wanted {
    pub(super) id: NotificationId,
    /// Behind this line.
    pub(super) after: i64,
    pub(super) size: usize,
}

/// Checks a request.
pub(super) fn wanted(message: &proto::NotificationServiceExplainRequest) -> Result<Wanted, ApiError> {
    let mut faults = Violations::default();
    let id = faults.notification_id("notification_id", &message.notification_id);
    let size = list::page_size(message.page_size, PAGE_SIZE_MAX, PAGE_SIZE_MAX, &mut faults);
    let text = message.page_token.as_deref().filter(|text| !text.is_empty());
    let after = text.map(|text| line(text, id));
    let known = !matches!(after, Some(None));
    faults.require(known, "page_token", "must be from the answer before, about the same notification");
    faults.finish()?;
    Ok(Wanted { id, after: after.flatten().unwrap_or(0), size })
}

fn token(id: NotificationId, line: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("{id}:{line}"))
}

fn line(text: &str, id: NotificationId) -> Option<i64> {
    let content = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let line = content.strip_prefix(&format!("{id}:"))?;
    line.parse().ok().filter(|&line| line > 0)
}

/// What the caller is shown.
pub(super) fn answer(
    mut view: NotificationView,
    (lines, next): (Vec<WhyLine>, Option<i64>),
    basis: Basis,
    defaults: &QuietDefaults,
) -> proto::NotificationServiceExplainResponse {
    view.why.clear();
    let quiet_hours = quiet_hours(&basis, view.urgency, defaults);
    proto::NotificationServiceExplainResponse {
        summary: words::summary(&view),
        entries: lines.into_iter().map(entry).collect(),
        next_page_token: next.map(|line| token(view.id, line)).unwrap_or_default(),
        caller: view.caller.clone().unwrap_or_default(),
        cancelled_by: view.cancelled_by.clone().unwrap_or_default(),
        consents: basis.consents.into_iter().map(consent).collect(),
        quiet_hours: Some(quiet_hours),
        notification: Some(get::notification(view)),
    }
}

fn entry(line: WhyLine) -> proto::ExplainEntry {
    let sentence = words::sentence(line.reason).to_owned();
    proto::ExplainEntry { why: Some(get::why_entry(line)), sentence }
}

fn consent(entry: Consent) -> proto::ExplainConsent {
    proto::ExplainConsent {
        channel: channel_to(entry.channel).into(),
        granted: entry.granted,
        given_at: Some(timestamp_to(entry.given_at)),
        recorded_by: entry.recorded_by,
        how: entry.how,
        counted_when_planned: entry.when_planned,
        counts_now: entry.now,
    }
}

fn quiet_hours(basis: &Basis, urgency: Urgency, defaults: &QuietDefaults) -> proto::ExplainQuietHours {
    let proto::QuietHours { start, end } = quiet_hours_to(basis.quiet_hours.unwrap_or(defaults.hours));
    proto::ExplainQuietHours {
        start,
        end,
        time_zone: basis.time_zone.clone().unwrap_or_else(|| defaults.time_zone.clone()),
        chosen_by_recipient: basis.quiet_hours.is_some(),
        ignored: urgency == Urgency::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_bound_to_its_notification() {
        let id = NotificationId::for_request("local", "key-1");
        let ask = |page_token: Option<String>, page_size| {
            wanted(&proto::NotificationServiceExplainRequest {
                notification_id: id.to_string(),
                page_token,
                page_size,
                consistency_token: None,
            })
        };
        let first = ask(None, 0).unwrap();
        assert_eq!((first.id, first.after, first.size), (id, 0, PAGE_SIZE_MAX));
        let next = ask(Some(token(id, 77)), 3).unwrap();
        assert_eq!((next.after, next.size), (77, 3));
        let other = NotificationId::for_request("local", "key-2");
        for (bad, size) in [(Some(token(other, 77)), 3), (Some("x".to_owned()), 3), (None, 501), (None, -1)] {
            assert!(ask(bad, size).is_err());
        }
    }
}
