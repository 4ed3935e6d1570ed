//! `List`: from a request to a filter, and page tokens that are bound to it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;

use super::get;
use crate::api::auth::{Caller, Scope};
use crate::api::convert::{purpose_from, state_from};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::{NotificationId, State, ids};
use crate::record::list::{Filter, Page, Place};

const PAGE_SIZE_DEFAULT: usize = 50;
const PAGE_SIZE_MAX: usize = 500;
/// Longest token that is looked at, in characters.
const TOKEN_MAX_CHARS: usize = 512;
/// Leads a token's content, so that its form can change.
const VERSION: &str = "1";

/// A checked request.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) filter: Filter,
    pub(super) after: Option<Place>,
    pub(super) size: usize,
    /// Of all that decides what the pages hold.
    binding: Uuid,
}

/// Checks a request.
pub(super) fn wanted(
    message: &proto::NotificationServiceListRequest,
    caller: &Caller,
) -> Result<Wanted, ApiError> {
    let mut faults = Violations::default();
    let patient_id = match message.patient_id.as_deref() {
        Some(text) => faults.patient_id("patient_id", text),
        None => None,
    };
    if let Some(name) = &message.caller {
        faults.require(ids::is_opaque(name), "caller", "must be the name of a caller");
    }
    let purpose = faults.word("purpose", message.purpose, purpose_from);
    let states = states(&message.states, &mut faults);
    let from = faults.timestamp("accepted_from", message.accepted_from);
    let before = faults.timestamp("accepted_before", message.accepted_before);
    let in_order = from.zip(before).is_none_or(|(from, before)| from < before);
    faults.require(in_order, "accepted_before", "must be later than accepted_from");
    for (field, time) in [("accepted_from", from), ("accepted_before", before)] {
        // What the database can hold; nothing of ours is near these bounds.
        let meant = time.is_none_or(|time| (0..=253_402_300_799).contains(&time.as_second()));
        faults.require(meant, field, "must lie in the years 1970 to 9999");
    }
    let size = page_size(message.page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, &mut faults);
    let all = caller.may(Scope::NotificationsAll);
    let of = match &message.caller {
        Some(name) if *name != caller.name && !all => {
            return Err(ApiError::Forbidden(Scope::NotificationsAll));
        }
        Some(name) => Some(name.clone()),
        None if all && message.patient_id.is_some() => None,
        None => Some(caller.name.clone()),
    };
    let filter = Filter { patient_id, caller: of, purpose, states, from, before };
    let binding = binding(&filter);
    let text = message.page_token.as_deref().filter(|text| !text.is_empty());
    let after = text.map(|text| place(text, binding));
    let known = !matches!(after, Some(None));
    faults.require(known, "page_token", "must be from the answer before, to the same request otherwise");
    faults.finish()?;
    Ok(Wanted { filter, after: after.flatten(), size, binding })
}

/// How many entries a page has.
pub(super) fn page_size(asked: i32, default: usize, max: usize, faults: &mut Violations) -> usize {
    let size = usize::try_from(asked).ok().filter(|&size| size <= max);
    faults.require(size.is_some(), "page_size", "must be 0 to 500");
    size.filter(|&size| size > 0).unwrap_or(default)
}

fn states(numbers: &[i32], faults: &mut Violations) -> Vec<State> {
    let mut states = Vec::new();
    // Beyond this there is certainly one named twice; it bounds the answer.
    for (index, &number) in numbers.iter().enumerate().take(State::ALL.len() + 1) {
        let field = format!("states[{index}]");
        if let Some(state) = faults.required_word(&field, number, state_from) {
            faults.require(!states.contains(&state), &field, "names a state a second time");
            states.push(state);
        }
    }
    states
}

/// The same for the same pages. The caller's own name is part of it where it decides.
fn binding(filter: &Filter) -> Uuid {
    let Filter { patient_id, caller, purpose, states, from, before } = filter;
    let mut states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    states.sort_unstable();
    let parts = format!(
        "{:?}|{caller:?}|{purpose:?}|{states:?}|{from:?}|{before:?}",
        patient_id.as_ref().map(crate::domain::PatientId::as_str)
    );
    Uuid::new_v5(&Uuid::NAMESPACE_OID, parts.as_bytes())
}

fn token(place: Place, binding: Uuid) -> String {
    let micros = place.accepted_at.as_microsecond();
    URL_SAFE_NO_PAD.encode(format!("{VERSION}:{}:{micros}:{}", binding.simple(), place.id))
}

/// `None`: not a token of ours, or one of other pages.
fn place(text: &str, binding: Uuid) -> Option<Place> {
    if text.len() > TOKEN_MAX_CHARS {
        return None;
    }
    let content = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut parts = content.splitn(4, ':');
    if parts.next()? != VERSION || Uuid::try_parse(parts.next()?).ok()? != binding {
        return None;
    }
    let accepted_at = Timestamp::from_microsecond(parts.next()?.parse().ok()?).ok()?;
    let id = NotificationId(Uuid::try_parse(parts.next()?).ok()?);
    Some(Place { accepted_at, id })
}

/// What the caller is shown.
pub(super) fn answer(page: Page, wanted: &Wanted) -> proto::NotificationServiceListResponse {
    proto::NotificationServiceListResponse {
        notifications: page.notifications.into_iter().map(get::notification).collect(),
        next_page_token: page.next.map(|place| token(place, wanted.binding)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scopes: &[Scope]) -> Caller {
        Caller::new("portal".to_owned(), scopes.to_vec())
    }

    fn fields(result: Result<Wanted, ApiError>) -> Vec<String> {
        match result {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_the_scope_one_lists_ones_own() {
        let of = |message: proto::NotificationServiceListRequest, scopes: &[Scope]| {
            wanted(&message, &caller(scopes)).map(|wanted| wanted.filter.caller)
        };
        let nothing = proto::NotificationServiceListRequest::default;
        let patient = || proto::NotificationServiceListRequest { patient_id: Some("p".into()), ..nothing() };
        let others = || proto::NotificationServiceListRequest { caller: Some("other".into()), ..nothing() };
        let own = Some("portal".to_owned());
        assert_eq!(of(nothing(), &[]).unwrap(), own);
        assert_eq!(of(patient(), &[]).unwrap(), own);
        assert!(matches!(of(others(), &[]), Err(ApiError::Forbidden(Scope::NotificationsAll))));
        let all = [Scope::NotificationsAll];
        assert_eq!(of(nothing(), &all).unwrap(), own);
        assert_eq!(of(patient(), &all).unwrap(), None);
        assert_eq!(of(others(), &all).unwrap(), Some("other".to_owned()));
    }

    #[test]
    fn a_page_token_comes_back_and_is_bound_to_its_request() {
        let message = proto::NotificationServiceListRequest {
            patient_id: Some("pat-1".into()),
            states: vec![proto::State::Sent.into(), proto::State::Held.into()],
            ..Default::default()
        };
        let first = wanted(&message, &caller(&[])).unwrap();
        assert_eq!((first.size, first.after), (PAGE_SIZE_DEFAULT, None));
        let accepted_at = Timestamp::from_microsecond(1_800_000_000_123_456).unwrap();
        let place = Place { accepted_at, id: NotificationId::for_request("portal", "key-1") };
        let next = token(place, first.binding);
        assert!(next.len() <= TOKEN_MAX_CHARS);
        let mut again =
            proto::NotificationServiceListRequest { page_token: Some(next), page_size: 500, ..message };
        again.states.reverse();
        assert_eq!(wanted(&again, &caller(&[])).unwrap().after, Some(place));
        again.states.pop();
        assert_eq!(fields(wanted(&again, &caller(&[]))), ["page_token"]);
        again.page_token = Some("x".into());
        assert_eq!(fields(wanted(&again, &caller(&[]))), ["page_token"]);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let message = proto::NotificationServiceListRequest {
            patient_id: Some("Jane Doe".into()),
            caller: Some(String::new()),
            purpose: 99,
            states: vec![0, 4, 4],
            accepted_from: time(10),
            accepted_before: time(10),
            page_size: 501,
            ..Default::default()
        };
        let told = fields(wanted(&message, &caller(&[Scope::NotificationsAll])));
        let expected =
            ["patient_id", "caller", "purpose", "states[0]", "states[2]", "accepted_before", "page_size"];
        assert_eq!(told, expected);
    }
}
