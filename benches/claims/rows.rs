//! Rows as quiet hours, retries and campaigns leave them.

use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use jiff::civil::time;
use patient_notify::domain::{Channel, QuietHours, Redacted, Relation};
use patient_notify::record::recipients::{ContactPointUpsert, RecipientUpsert, upsert_many};
use patient_notify::topic::sample::sample_patient;

/// Patients that the deliveries are spread over.
const PATIENTS: u64 = 20_000;

const EMPTY: &str = "TRUNCATE notification, delivery, why, outbox, escalation";

/// Row `n` is due if `$2` divides it, else held for a later hour if 5 does, else ended;
/// channel and urgency go round with the due ones.
const NUMBERED: &str = "
CREATE TEMPORARY TABLE numbered ON COMMIT DROP AS
SELECT n, md5('notification ' || n)::uuid AS notification_id, md5('delivery ' || n)::uuid AS delivery_id,
       p.recipient_id, p.external_id,
       (ARRAY['sms', 'email', 'push'])[1 + n / $2 % 3] AS channel,
       (ARRAY['normal', 'high', 'critical', 'bulk'])[1 + n / $2 / 3 % 4] AS urgency,
       CASE WHEN n % $2 = 0 THEN 'temporary_failure' WHEN n % 5 = 0 THEN 'held' ELSE 'sent' END AS state,
       CASE WHEN n % $2 = 0 THEN now() - ($1 - n) * interval '1 millisecond'
            WHEN n % 5 = 0 THEN now() + interval '10 hours' + n * interval '10 milliseconds' END AS due_at
  FROM generate_series(1, $1) AS n
  JOIN people p ON p.nth = n % $3";

const NOTIFICATIONS: &str = "
INSERT INTO notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason, fingerprint,
       channels, locale, source_topic, source_partition, source_offset, published_at, expires_at)
SELECT notification_id, external_id, recipient_id, 'general', urgency, state, 'none', sha256(''), ARRAY[channel],
       'en', 'bench', 0, n, now() - interval '9 hours', now() + interval '5 days'
  FROM numbered";

const DELIVERIES: &str = "
INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state, reason,
       address, due_at, expires_at)
SELECT d.delivery_id, d.notification_id, d.recipient_id, d.channel, 0, d.urgency, d.state, 'none', c.address,
       d.due_at, now() + interval '5 days'
  FROM numbered d JOIN contact_point c USING (recipient_id, channel)";

/// What the indexes of the two tables are made by.
const INDEXES: &str = "
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), c.conname, i.indrelid::regclass::text,
       pg_get_constraintdef(c.oid)
  FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid
 WHERE i.indrelid IN ('notification'::regclass, 'delivery'::regclass)";

/// Tables of a database of its own.
pub struct Table {
    pub pool: Pool,
}

impl Table {
    /// With people, and without deliveries.
    pub async fn new(pool: Pool) -> anyhow::Result<Self> {
        let people: Vec<RecipientUpsert> = (1..=PATIENTS).map(person).collect();
        upsert_many(&pool, &people).await?;
        let client = pool.get().await?;
        client
            .batch_execute(
                "CREATE TABLE people AS
                 SELECT row_number() OVER () - 1 AS nth, recipient_id, external_id FROM recipient;
                 ANALYZE",
            )
            .await?;
        drop(client);
        Ok(Self { pool })
    }

    /// Has these rows and no others, of which one in `due_every` is due. The indexes are
    /// those of the migrations, built anew over all rows.
    pub async fn fill(&self, rows: u64, due_every: u64) -> anyhow::Result<()> {
        let mut client = self.pool.get().await?;
        client.batch_execute("SET statement_timeout = 0").await?;
        client.batch_execute(EMPTY).await?;
        let transaction = client.transaction().await?;
        let indexes = transaction.query(INDEXES, &[]).await?;
        let mut build = Vec::new();
        for index in &indexes {
            let (name, made_by): (&str, &str) = (index.try_get(0)?, index.try_get(1)?);
            if let Some(constraint) = index.try_get::<_, Option<&str>>(2)? {
                let (table, is): (&str, &str) = (index.try_get(3)?, index.try_get(4)?);
                build.push(format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} {is}"));
                transaction
                    .batch_execute(&format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"))
                    .await?;
            } else {
                build.push(made_by.to_owned());
                transaction.batch_execute(&format!("DROP INDEX {name}")).await?;
            }
        }
        // Arguments of a CREATE TABLE AS have to be written out.
        let numbered = [("$1", rows), ("$2", due_every), ("$3", PATIENTS)]
            .iter()
            .fold(NUMBERED.to_owned(), |text, (name, value)| text.replace(name, &format!("{value}::bigint")));
        transaction.batch_execute("SET LOCAL maintenance_work_mem = '256MB'").await?;
        for statement in
            [&numbered, NOTIFICATIONS, DELIVERIES].into_iter().chain(build.iter().map(String::as_str))
        {
            transaction.batch_execute(statement).await?;
        }
        transaction.commit().await?;
        client.batch_execute("VACUUM (ANALYZE) notification, delivery").await?;
        client.batch_execute("CHECKPOINT").await?;
        client.batch_execute("RESET statement_timeout").await?;
        Ok(())
    }

    /// How many rows fulfil this.
    pub async fn count(&self, of: &str) -> anyhow::Result<u64> {
        let row = self.pool.get().await?.query_one(&format!("SELECT count(*) FROM {of}"), &[]).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }

    /// One number that a statement gives.
    pub async fn number(&self, statement: &str) -> anyhow::Result<u64> {
        let row = self.pool.get().await?.query_one(statement, &[]).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }
}

/// How long a claim of a bench is somebody's: longer than the bench.
pub const LEASE: Duration = Duration::from_secs(3600);

/// Who can be written to everywhere, at any hour.
fn person(number: u64) -> RecipientUpsert {
    let patient = sample_patient(number);
    let never = time(0, 0, 0, 0);
    let point = |channel, address: String| ContactPointUpsert {
        channel,
        address: Redacted::new(address),
        verified_at: Some(Timestamp::UNIX_EPOCH),
    };
    RecipientUpsert {
        external_id: patient.as_str().to_owned(),
        patients: vec![(patient, Relation::Patient)],
        display_name: None,
        locale: None,
        time_zone: None,
        quiet_hours: Some(QuietHours { start: never, end: never }),
        channel_order: Channel::ALL.to_vec(),
        contact_points: vec![
            point(Channel::Sms, format!("+1555{number:07}")),
            point(Channel::Email, format!("patient{number}@example.com")),
            point(Channel::Push, format!("token-{number}")),
        ],
        consents: Vec::new(),
    }
}
