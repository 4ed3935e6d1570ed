//! A night in which the clocks change: what is held for it is due when the recipient's own
//! clock says so, in three zones, forward and back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use patient_notify::domain::{Channel, Event, QuietHours, State, Urgency};
use patient_notify::plan::{Decision, Planned, Settings, plan};
use patient_notify::processor::claim_of;
use patient_notify::record::Source;
use patient_notify::record::recipients::RecipientUpsert;

use crate::harness::{World, patient, request, sms_only};

const LEASE: Duration = Duration::from_secs(60);
/// 21:00 everywhere below, by the recipient's clock.
const EVENING: &str = "21:00";

/// Zone, when it comes, until when it is quiet by the recipient's clock, when it goes out.
type Night = (&'static str, &'static str, &'static str, &'static str);

const NIGHTS: [Night; 12] = [
    // Forward: 2:00 EST is 3:00 EDT. 2:30 is skipped.
    ("America/New_York", "2026-03-08T03:00:00Z", "08:00", "2026-03-08T12:00:00Z"),
    ("America/New_York", "2026-03-08T03:00:00Z", "02:30", "2026-03-08T07:30:00Z"),
    // Back: 2:00 EDT is 1:00 EST. 1:30 comes twice.
    ("America/New_York", "2025-11-02T02:00:00Z", "08:00", "2025-11-02T13:00:00Z"),
    ("America/New_York", "2025-11-02T02:00:00Z", "01:30", "2025-11-02T05:30:00Z"),
    // Forward: 2:00 CET is 3:00 CEST.
    ("Europe/Berlin", "2026-03-28T21:00:00Z", "08:00", "2026-03-29T06:00:00Z"),
    ("Europe/Berlin", "2026-03-28T21:00:00Z", "02:30", "2026-03-29T01:30:00Z"),
    // Back: 3:00 CEST is 2:00 CET.
    ("Europe/Berlin", "2025-10-25T20:00:00Z", "08:00", "2025-10-26T07:00:00Z"),
    ("Europe/Berlin", "2025-10-25T20:00:00Z", "02:30", "2025-10-26T00:30:00Z"),
    // Forward by half an hour: 2:00 at +10:30 is 2:30 at +11.
    ("Australia/Lord_Howe", "2025-10-04T11:30:00Z", "08:00", "2025-10-04T21:00:00Z"),
    ("Australia/Lord_Howe", "2025-10-04T11:30:00Z", "02:15", "2025-10-04T15:45:00Z"),
    // Back by half an hour: 2:00 at +11 is 1:30 at +10:30.
    ("Australia/Lord_Howe", "2026-04-04T11:00:00Z", "08:00", "2026-04-04T21:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T11:00:00Z", "01:45", "2026-04-04T14:45:00Z"),
];

const HELD: &str = "
SELECT d.due_at, d.state, n.reason
  FROM delivery d JOIN notification n USING (notification_id) WHERE notification_id = $1";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

fn sleeper(number: u64, zone: &str, until: &str) -> RecipientUpsert {
    let mut sleeper = sms_only(number);
    sleeper.time_zone = Some(zone.to_owned());
    sleeper.quiet_hours = Some(QuietHours { start: time(EVENING), end: time(until) });
    sleeper
}

/// What is decided of a request that comes now, by what the database knows of its patient.
async fn decided(world: &World, number: u64, now: Timestamp) -> Planned {
    let patient = patient(number);
    let known = world.store.recipients_of(&[&patient]).await.unwrap();
    let mut asked = request(number, &format!("{number} at {now}"));
    asked.requested_at = now;
    let settings = Settings::new(&world.config.plan).unwrap();
    plan(&Event::Notification(asked), &known[&patient], &settings, now).remove(0)
}

/// The deliveries that a worker would get now.
async fn claimed(world: &World) -> Vec<(uuid::Uuid, State)> {
    let shares = [(Channel::Sms, 100)];
    let due = world.store.claim_due(Urgency::Normal, &shares, LEASE).await.unwrap();
    due.iter().map(|one| (one.notification_id.0, one.was)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quiet_hours_end_by_the_recipients_clock_when_the_clocks_change() {
    let world = World::new().await;
    let people: Vec<_> =
        NIGHTS.iter().zip(1..).map(|((zone, _, until, _), number)| sleeper(number, zone, until)).collect();
    world.load(&people).await;
    let client = world.pool.get().await.unwrap();
    for (batch, (zone, comes, until, released)) in (1..).zip(NIGHTS) {
        let night = format!("{zone}, at {comes}, until {until}");
        let planned = decided(&world, u64::try_from(batch).unwrap(), at(comes)).await;
        let source = Source {
            topic: Arc::from("test"),
            partition: 0,
            offset: 0,
            published_at: at(comes),
            trace: None,
        };
        let id = planned.notification_id;
        world.store.claim(&mut [claim_of(&planned, source, [0; 32])], batch, LEASE).await.unwrap();
        let row = client.query_one(HELD, &[&id.0]).await.unwrap();
        assert_eq!(row.get::<_, Timestamp>(0), at(released), "{night}");
        assert_eq!((row.get(1), row.get(2)), ("held", "quiet_hours"), "{night}");

        // Its time is what a worker goes by.
        let moved = "UPDATE delivery SET due_at = now() + $2::text::interval WHERE notification_id = $1";
        client.execute(moved, &[&id.0, &"1 hour"]).await.unwrap();
        assert_eq!(claimed(&world).await, [], "{night}");
        client.execute(moved, &[&id.0, &"0"]).await.unwrap();
        assert_eq!(claimed(&world).await, [(id.0, State::Held)], "{night}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_night_that_has_ended_does_not_begin_again_when_the_clocks_go_back() {
    let world = World::new().await;
    world.load(&[sleeper(1, "America/New_York", "01:30")]).await;
    // 1:29:59 EDT, 1:30 EDT, and 1:15 EST, forty-five minutes later.
    for (now, decision) in [
        ("2025-11-02T05:29:59Z", "hold"),
        ("2025-11-02T05:30:00Z", "dispatch"),
        ("2025-11-02T06:15:00Z", "dispatch"),
    ] {
        let planned = decided(&world, 1, at(now)).await;
        let is_held = matches!(planned.decision, Decision::Hold { .. });
        assert_eq!(if is_held { "hold" } else { "dispatch" }, decision, "{now}");
    }
}
