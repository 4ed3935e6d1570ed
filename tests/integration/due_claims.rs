//! How due rows are found: by the index, whatever else is in the table.

use std::time::Duration;

use patient_notify::domain::{Channel, Urgency};

use crate::harness::World;

const LEASE: Duration = Duration::from_secs(60);

/// 30,000 rows with their notifications: `$1` of ten are due, the others have ended.
const ROWS: &str = "
WITH new AS (
    INSERT INTO notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason,
           fingerprint, channels, locale, source_topic, source_partition, source_offset, published_at,
           expires_at)
    SELECT gen_random_uuid(), 'pat-000001', gen_random_uuid(), 'general', 'normal',
           CASE WHEN n % 10 < $1::int THEN 'queued' ELSE 'sent' END, 'none', '',
           ARRAY[(ARRAY['sms', 'email', 'push'])[1 + n / 10 % 3]], 'en', 'test', 0, n, now(),
           now() + interval '1 day'
      FROM generate_series(1, 30000) AS n
    RETURNING *
)
INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state, reason,
       due_at, expires_at)
SELECT gen_random_uuid(), notification_id, recipient_id, channels[1], 0, urgency, state, reason,
       CASE WHEN state = 'queued' THEN now() - interval '1 hour' END, expires_at
  FROM new";

/// The claim looks rows up one by one, whether few or most of the table are due: it must not
/// get slow when a provider was away for a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_reads_no_table_as_a_whole() {
    let world = World::new().await;
    let client = world.pool.get().await.unwrap();
    let shares: Vec<_> = Channel::ALL.iter().map(|&channel| (channel, 50)).collect();
    for due_of_ten in [1, 10] {
        client.batch_execute("TRUNCATE notification, delivery").await.unwrap();
        client.execute(ROWS, &[&due_of_ten]).await.unwrap();
        client.batch_execute("ANALYZE notification, delivery").await.unwrap();
        let plan = world.store.explain_claim_due(Urgency::Normal, &shares, LEASE).await.unwrap();
        let text = plan.join("\n");
        assert!(!text.contains("Seq Scan"), "{due_of_ten} of ten are due:\n{text}");
        assert!(text.contains("Index Scan using delivery_due"), "{text}");
        assert_eq!(world.count("delivery WHERE state = 'dispatching'").await, 0, "explained, not claimed");
        let claimed = world.store.claim_due(Urgency::Normal, &shares, LEASE).await.unwrap();
        assert_eq!(claimed.len(), 150);
    }
}
