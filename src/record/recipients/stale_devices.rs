//! Devices that nobody has confirmed for long: taken out of use, and after a while
//! forgotten.
//!
//! FCM lets a token of an Android device expire after 270 days without a connection, and
//! advises to remove tokens that an app has not confirmed. Such a device is retired first,
//! so that a portal which repeats an old state does not bring it back: only a later
//! verification does.

use std::time::{Duration, Instant};

use crate::domain::Redacted;
use crate::metrics;
use crate::record::error::RecordError;
use crate::record::job_turns::millis;
use crate::record::store::Store;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A device that nobody has confirmed for this long is out of use.
pub const STALE_AFTER: Duration = DAY.saturating_mul(270);
/// A device that was retired this long ago is forgotten.
pub const FORGOTTEN_AFTER: Duration = DAY.saturating_mul(90);
/// `contact_point.retired_why` of a device that nobody has confirmed.
const STALE: &str = "stale";
/// Devices in use that one statement looks at, and retired ones that it forgets.
const BATCH: i64 = 2_000;

/// What one step through the devices in use came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleDevices {
    /// Devices that are out of use now.
    pub retired: u64,
    /// Where the next step begins; `None`: it was the last one.
    pub next: Option<Redacted<String>>,
}

// A device that its owner registers at this moment is passed over, and so is one of
// which it is not known since when it is there.
const RETIRE: &str = "
WITH looked_at AS MATERIALIZED (
    SELECT recipient_id, address, coalesce(seen_at, verified_at) AS seen_at
      FROM contact_point WHERE channel = 'push' AND retired_at IS NULL AND address > $1
     ORDER BY address LIMIT $2
), stale AS (
    SELECT c.recipient_id, c.address FROM looked_at l
      JOIN contact_point c ON c.recipient_id = l.recipient_id AND c.channel = 'push' AND c.address = l.address
     WHERE l.seen_at < now() - $3::bigint * interval '1 millisecond' AND c.retired_at IS NULL
       AND coalesce(c.seen_at, c.verified_at) < now() - $3::bigint * interval '1 millisecond'
       FOR UPDATE OF c SKIP LOCKED
), retired AS (
    UPDATE contact_point c SET retired_at = now(), retired_why = $4
      FROM stale s WHERE c.recipient_id = s.recipient_id AND c.channel = 'push' AND c.address = s.address
    RETURNING 1
)
SELECT (SELECT count(*) FROM retired) AS retired, count(*) AS looked_at, max(address) AS last FROM looked_at";

const FORGET: &str = "
DELETE FROM contact_point c
 USING (SELECT recipient_id, address FROM contact_point
         WHERE channel = 'push' AND retired_at < now() - $1::bigint * interval '1 millisecond'
         ORDER BY retired_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS old
 WHERE c.recipient_id = old.recipient_id AND c.channel = 'push' AND c.address = old.address";

impl Store {
    /// Looks at some devices in use behind `after`, in the order of their tokens, and
    /// retires those that nobody has confirmed for 270 days.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn retire_stale_devices(
        &self,
        after: Option<&Redacted<String>>,
    ) -> Result<StaleDevices, RecordError> {
        let at = RecordError::at("devices_retire_stale");
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(RETIRE).await.map_err(&at)?;
        let after = after.map_or("", |token| token.expose().as_str());
        let row = client
            .query_one(&statement, &[&after, &BATCH, &millis(STALE_AFTER), &STALE])
            .await
            .map_err(&at)?;
        let looked_at: i64 = row.try_get("looked_at")?;
        let retired: i64 = row.try_get("retired")?;
        let last: Option<String> = row.try_get("last")?;
        metrics::statement("devices_retire_stale", usize::try_from(looked_at).unwrap_or(0), begun.elapsed());
        Ok(StaleDevices {
            retired: retired.unsigned_abs(),
            next: last.map(Redacted::new).filter(|_| looked_at >= BATCH),
        })
    }

    /// Forgets some devices that were retired 90 days ago, for whatever reason. How
    /// many; 0: there are no more.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn forget_retired_devices(&self) -> Result<u64, RecordError> {
        let at = RecordError::at("devices_forget");
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(FORGET).await.map_err(&at)?;
        let forgotten = client.execute(&statement, &[&millis(FORGOTTEN_AFTER), &BATCH]).await.map_err(&at)?;
        metrics::statement("devices_forget", usize::try_from(forgotten).unwrap_or(0), begun.elapsed());
        Ok(forgotten)
    }
}
