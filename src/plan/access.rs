//! Who may hear of a patient now: the patient always, a proxy within what was granted,
//! nobody who was erased.

use jiff::Timestamp;

use crate::domain::{Purpose, Reason, Recipient, Relation};

/// Why this recipient may not hear of the patient now; `None`: they may.
///
/// A link that is gone has ended. What is asked about time comes before what is
/// asked about the purpose: it is what changes by itself.
#[must_use]
pub fn denied(recipient: &Recipient, purpose: Purpose, now: Timestamp) -> Option<Reason> {
    if recipient.erased {
        return Some(Reason::Erased);
    }
    let Some(access) = &recipient.access else { return Some(Reason::AccessEnded) };
    if recipient.relation == Relation::Patient {
        return None;
    }
    if access.ends_at().is_some_and(|end| end <= now) {
        return Some(Reason::AccessEnded);
    }
    if access.valid_from.is_some_and(|start| start > now) {
        return Some(Reason::AccessNotBegun);
    }
    let granted = access.purposes.is_empty() || access.purposes.contains(&purpose);
    (!granted).then_some(Reason::AccessNotGranted)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::{Access, RecipientId};

    fn now() -> Timestamp {
        "2026-06-10T16:00:00Z".parse().unwrap()
    }

    fn hours(count: i64) -> Timestamp {
        now() + SignedDuration::from_hours(count)
    }

    fn proxy(access: Option<Access>) -> Recipient {
        Recipient {
            id: RecipientId::from_external("proxy-1"),
            external_id: "proxy-1".to_owned(),
            relation: Relation::Proxy,
            access,
            locale: None,
            time_zone: None,
            quiet_hours: None,
            channel_order: vec![],
            contact_points: vec![],
            consents: vec![],
            erased: false,
        }
    }

    fn denied_with(access: Access) -> Option<Reason> {
        denied(&proxy(Some(access)), Purpose::General, now())
    }

    #[test]
    fn a_grant_without_limits_and_one_within_them_are_heard() {
        assert_eq!(denied_with(Access::default()), None);
        let within = Access {
            valid_from: Some(now()),
            valid_until: Some(hours(1)),
            purposes: vec![Purpose::TestResult, Purpose::General],
            ..Access::default()
        };
        assert_eq!(denied_with(within), None);
    }

    #[test]
    fn before_after_and_beside_a_grant_nothing_is_heard() {
        let early = Access { valid_from: Some(hours(1)), ..Access::default() };
        assert_eq!(denied_with(early), Some(Reason::AccessNotBegun));
        let late = Access { valid_until: Some(now()), ..Access::default() };
        assert_eq!(denied_with(late), Some(Reason::AccessEnded));
        let beside = Access { purposes: vec![Purpose::TestResult], ..Access::default() };
        assert_eq!(denied_with(beside), Some(Reason::AccessNotGranted));
        assert_eq!(denied(&proxy(None), Purpose::General, now()), Some(Reason::AccessEnded));
    }

    #[test]
    fn a_grown_up_is_heard_of_by_those_whom_the_patient_chose() {
        let of_age = |of_age_at, granted_at, granted_by_patient| {
            denied_with(Access {
                of_age_at: Some(of_age_at),
                granted_at,
                granted_by_patient,
                ..Access::default()
            })
        };
        assert_eq!(of_age(hours(1), None, false), None, "still a minor");
        assert_eq!(of_age(now(), None, false), Some(Reason::AccessEnded));
        assert_eq!(of_age(now(), Some(hours(-1)), true), Some(Reason::AccessEnded), "granted as a child");
        assert_eq!(of_age(hours(-2), Some(hours(-1)), false), Some(Reason::AccessEnded), "not the patient");
        assert_eq!(of_age(hours(-2), Some(hours(-1)), true), None);
    }

    #[test]
    fn limits_are_of_proxies_and_nobody_who_was_erased_hears_anything() {
        let ended = Access { valid_until: Some(hours(-1)), ..Access::default() };
        let mut patient = proxy(Some(ended));
        patient.relation = Relation::Patient;
        assert_eq!(denied(&patient, Purpose::General, now()), None);
        patient.erased = true;
        assert_eq!(denied(&patient, Purpose::General, now()), Some(Reason::Erased));
    }
}
