//! Any event survives the wire; any bytes are survived.

use jiff::Timestamp;
use proptest::prelude::*;

use crate::domain::{
    Channel, DeliveryId, DeliveryRef, Engagement, Fact, NotificationId, NotificationRequested,
    NotificationUpdate, PatientId, Purpose, Reason as Why, ReceiptStatus, RecipientId, Redacted,
    ResultUrgency, State, StatusChanged, Strategy as ChannelStrategy, TestResultPublished, Urgency,
};

use super::*;

fn opaque() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._:-]{1,64}"
}

fn time() -> impl Strategy<Value = Timestamp> {
    (946_684_800_000_i64..4_133_980_800_000).prop_map(|ms| Timestamp::from_millisecond(ms).unwrap())
}

prop_compose! {
    fn a_result()(
        (result_id, facility_id, patient) in (opaque(), opaque(), opaque()),
        version in 1..=i32::MAX,
        category in "[^\\p{C}]{1,64}",
        urgency in prop::sample::select(vec![ResultUrgency::Normal, ResultUrgency::Abnormal, ResultUrgency::Critical]),
        (released_at, available_at) in (time(), time()),
    ) -> TestResultPublished {
        let patient_id = PatientId::parse(&patient).unwrap();
        let category = Redacted::new(category);
        TestResultPublished { result_id, version, patient_id, facility_id, category, urgency, released_at, available_at }
    }
}

prop_compose! {
    fn a_request()(
        (caller, idempotency_key, patient) in (opaque(), opaque(), opaque()),
        recipient in prop::option::of(opaque()),
        purpose in prop::sample::select(Purpose::ALL),
        urgency in prop::sample::select(Urgency::ALL),
        channels in prop::sample::subsequence(Channel::ALL.to_vec(), 0..=3).prop_shuffle(),
        strategy in prop::sample::select(ChannelStrategy::ALL),
        requested_at in time(),
        send_at in prop::option::of(time()),
        lifetime_ms in prop::option::of(1_i64..1_000_000),
        variables in prop::collection::btree_map("[a-z0-9_]{1,64}", "[^\\x00]{0,500}", 0..=20),
    ) -> NotificationRequested {
        let latest = send_at.map_or(requested_at, |at: Timestamp| at.max(requested_at)).as_millisecond();
        let expires_at = lifetime_ms
            .map(|lifetime| latest + lifetime)
            .filter(|ms| *ms < 4_133_980_800_000)
            .map(|ms| Timestamp::from_millisecond(ms).unwrap());
        NotificationRequested {
            caller, idempotency_key, patient_id: PatientId::parse(&patient).unwrap(), recipient, purpose, urgency,
            channels, strategy, send_at, expires_at, variables: Redacted::new(variables.into_iter().collect()), requested_at,
        }
    }
}

/// What a writer of ours can say: everything but [`Fact::Unknown`].
fn a_fact() -> impl Strategy<Value = Fact> {
    let uuid = || any::<u128>().prop_map(uuid::Uuid::from_u128);
    let delivery = prop_oneof![
        uuid().prop_map(|id| DeliveryRef::Id(DeliveryId(id))),
        "[^\\p{C}]{1,256}".prop_map(DeliveryRef::ProviderMessage),
    ];
    let code = prop::option::of("[^\\p{C}]{1,64}");
    let receipt = (delivery, prop::sample::select(ReceiptStatus::ALL), code)
        .prop_map(|(delivery, status, code)| Fact::Receipt { delivery, status, code });
    let engaged = (uuid(), prop::sample::select(Engagement::ALL))
        .prop_map(|(id, engagement)| Fact::Engaged { notification_id: NotificationId(id), engagement });
    let channel = prop::option::of(prop::sample::select(Channel::ALL));
    let purpose = prop::option::of(prop::sample::select(Purpose::ALL));
    let consent =
        (opaque(), channel, purpose, any::<bool>()).prop_map(|(recipient, channel, purpose, granted)| {
            Fact::Consent { recipient, channel, purpose, granted }
        });
    let cancelled = (uuid(), prop::option::of(opaque()))
        .prop_map(|(id, caller)| Fact::Cancelled { notification_id: NotificationId(id), caller });
    prop_oneof![receipt, engaged, consent, cancelled]
}

prop_compose! {
    fn an_update()(
        (update_id, source) in (opaque(), opaque()),
        occurred_at in time(),
        patient in prop::option::of(opaque()),
        fact in a_fact(),
    ) -> NotificationUpdate {
        let patient_id = patient.as_deref().and_then(PatientId::parse);
        NotificationUpdate { update_id, occurred_at, source, patient_id, fact }
    }
}

prop_compose! {
    fn a_status()(
        (notification, recipient) in (any::<u128>(), any::<u128>()),
        (patient, caller) in (opaque(), prop::option::of(opaque())),
        purpose in prop::sample::select(Purpose::ALL),
        sequence in 1..=i32::MAX,
        state in prop::sample::select(State::ALL),
        reason in prop::sample::select(Why::ALL),
        channel in prop::option::of(prop::sample::select(Channel::ALL)),
        changed_at in time(),
    ) -> StatusChanged {
        StatusChanged {
            notification_id: NotificationId(uuid::Uuid::from_u128(notification)),
            patient_id: PatientId::parse(&patient).unwrap(),
            recipient_id: RecipientId(uuid::Uuid::from_u128(recipient)),
            purpose, sequence, state, reason, channel, caller, changed_at,
        }
    }
}

/// An encoder whose registry gives the ids that [`PREPARED`] knows.
static ENCODE: LazyLock<(tokio::runtime::Runtime, Encoder)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = runtime.block_on(registry()).settings();
    (runtime, Encoder::new(&settings, "").unwrap())
});

proptest! {
    #[test]
    fn a_result_survives_the_wire(event in a_result()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.test_result(&event)).unwrap();
        prop_assert_eq!(PREPARED.decode(RecordKind::TestResult, Some(&bytes)), Ok(Event::TestResult(event)));
    }

    #[test]
    fn a_request_survives_the_wire(event in a_request()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.notification(&names::NOTIFICATIONS, &event)).unwrap();
        prop_assert_eq!(PREPARED.decode(RecordKind::Notification, Some(&bytes)), Ok(Event::Notification(event)));
    }

    #[test]
    fn an_update_survives_the_wire(update in an_update()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.update(&update)).unwrap();
        prop_assert_eq!(PREPARED.decode_update(Some(&bytes)), Ok(update));
    }

    #[test]
    fn a_change_of_status_survives_the_wire(change in a_status()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.status(&change)).unwrap();
        prop_assert_eq!(PREPARED.decode_status(Some(&bytes)), Ok(Some(change)));
    }

    #[test]
    fn any_bytes_are_decoded_or_rejected(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        id in prop::sample::select(vec![RESULTS_ID, NOTIFICATIONS_ID, UPDATES_ID, STATUS_ID]),
        has_head in any::<bool>(),
    ) {
        let payload = if has_head { [head(id), bytes].concat() } else { bytes };
        for kind in [RecordKind::TestResult, RecordKind::Notification] {
            let _ = PREPARED.decode(kind, Some(&payload));
        }
        let _ = PREPARED.decode_update(Some(&payload));
        let _ = PREPARED.decode_status(Some(&payload));
    }

    #[test]
    fn a_damaged_record_is_decoded_or_rejected(at in 5_usize..60, with in any::<u8>(), cut in 0_usize..20) {
        let mut bytes = result_bytes("normal");
        let at = at.min(bytes.len() - 1);
        bytes[at] = with;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        let _ = PREPARED.decode(RecordKind::TestResult, Some(&bytes));
    }
}
