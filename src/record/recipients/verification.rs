//! Codes that prove an address: started, counted, tried, confirmed.
//!
//! Neither a code nor an address is written here, only what `api` makes of them with its
//! key. The recipient's lock makes starts and tries of one address follow one another, so
//! that no two calls try at once.

use std::time::Duration;

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use uuid::Uuid;

use super::contact_points::{Attestation, attest, standing};
use super::view::ContactPointView;
use super::{ChangeError, Touch, commit};
use crate::domain::{Channel, Redacted};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// Wrong codes that one start bears; with the last of them it is void.
pub const CODE_TRIES_MAX: i16 = 5;
/// How long a code is valid.
pub const CODE_VALID: Duration = Duration::from_secs(10 * 60);
/// Old rows that a start takes along: more than come.
const PRUNED_MAX: i64 = 100;

/// Why a code proves nothing (any more).
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// None was sent to the address within the last day.
    #[error("verification was not found: start one")]
    Unknown,
    /// Its time is over.
    #[error("the code has expired: start again")]
    Expired,
    /// It has proved its address already.
    #[error("the code was used: the contact point is verified, or start again")]
    Used,
    /// Something else ended it.
    #[error("the code is void ({0}): start again")]
    Void(&'static str),
    /// It is another one.
    #[error("that is not the code: {left} more tries")]
    Wrong {
        /// Tries that are left.
        left: u16,
    },
    /// Too many were started within an hour.
    #[error("{whose} has had {limit} codes within the hour")]
    TooMany {
        /// The caller's name, or `contact point`.
        whose: String,
        /// How many there may be.
        limit: u32,
        /// When there may be another.
        retry_after: Duration,
    },
}

/// Which address, by its own letters and by what they make with the key.
#[derive(Debug, Clone, Copy)]
pub struct CodeFor<'a> {
    /// SMS or e-mail.
    pub channel: Channel,
    /// The address.
    pub address: &'a Redacted<String>,
    /// The same for everybody who has this address.
    pub address_mac: &'a [u8],
}

/// How many starts an hour there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimits {
    /// To one address, whoever has it.
    pub per_address: u32,
    /// By one caller.
    pub per_caller: u32,
}

/// What a start says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeStarted {
    /// Valid until then.
    pub expires_at: Timestamp,
    /// The recipient's locale; `None`: the default.
    pub locale: Option<String>,
}

/// One start at a time, so that no two are both the last that is allowed: first those of
/// a caller, then those to an address.
const TURN_OF_CALLER: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 18))";
const TURN_OF_ADDRESS: &str = "SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 19))";

/// When the start that stands in the way is an hour old. What never left does not count.
const LIMIT_OF_CALLER: &str = "
SELECT ceil(extract(epoch FROM started_at + interval '1 hour' - clock_timestamp()) * 1000)::bigint AS wait_ms
  FROM contact_verification
 WHERE caller = $1 AND started_at > clock_timestamp() - interval '1 hour' AND ended_why IS DISTINCT FROM 'not_sent'
 ORDER BY started_at DESC OFFSET $2 LIMIT 1";
const LIMIT_OF_ADDRESS: &str = "
SELECT ceil(extract(epoch FROM started_at + interval '1 hour' - clock_timestamp()) * 1000)::bigint AS wait_ms
  FROM contact_verification
 WHERE address_mac = $1 AND started_at > clock_timestamp() - interval '1 hour'
   AND ended_why IS DISTINCT FROM 'not_sent'
 ORDER BY started_at DESC OFFSET $2 LIMIT 1";

const REPLACE: &str = "
UPDATE contact_verification SET ended_why = 'replaced', code_mac = NULL
 WHERE recipient_id = $1 AND channel = $2 AND address_mac = $3 AND ended_why IS NULL";

const BEGIN: &str = "
INSERT INTO contact_verification (verification_id, recipient_id, channel, address_mac, code_mac, caller, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::bigint * interval '1 millisecond')
RETURNING expires_at, (SELECT locale FROM recipient WHERE recipient_id = $2) AS locale";

const PRUNE: &str = "
DELETE FROM contact_verification v
 USING (SELECT verification_id FROM contact_verification
         WHERE started_at < now() - interval '1 day' ORDER BY started_at LIMIT $1
           FOR UPDATE SKIP LOCKED) AS old
 WHERE v.verification_id = old.verification_id";

const NOT_SENT: &str = "
UPDATE contact_verification SET ended_why = 'not_sent', code_mac = NULL
 WHERE verification_id = $1 AND ended_why IS NULL";

/// Writes down that a code goes to an address, and ends the one before. `id` and
/// `code_mac` are new.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn start_code(
    pool: &Pool,
    touch: Touch<'_>,
    to: CodeFor<'_>,
    (id, code_mac): (Uuid, &[u8]),
    limits: StartLimits,
) -> Result<CodeStarted, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    standing(&tx, touch, to.channel, to.address).await?;
    within(&tx, touch, to, limits).await?;
    let (recipient, channel) = (touch.id().0, to.channel.as_str());
    query(&tx, "verification_replace", REPLACE, &[&recipient, &channel, &to.address_mac]).await?;
    let valid_ms = i64::try_from(CODE_VALID.as_millis()).unwrap_or(i64::MAX);
    let begun = query(
        &tx,
        "verification_begin",
        BEGIN,
        &[&id, &recipient, &channel, &to.address_mac, &code_mac, &touch.caller, &valid_ms],
    )
    .await?;
    let row = begun.first().ok_or(ChangeError::Unknown)?;
    let started = CodeStarted {
        expires_at: row.try_get("expires_at").map_err(RecordError::from)?,
        locale: row.try_get("locale").map_err(RecordError::from)?,
    };
    query(&tx, "verification_prune", PRUNE, &[&PRUNED_MAX]).await?;
    touch.audit(&tx, "RecipientService/StartVerification", Some(channel)).await?;
    commit(tx).await?;
    Ok(started)
}

/// Neither the caller nor the address has had all that an hour gives.
async fn within(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    to: CodeFor<'_>,
    limits: StartLimits,
) -> Result<(), ChangeError> {
    query(tx, "verification_turn", TURN_OF_CALLER, &[&touch.caller]).await?;
    query(tx, "verification_turn", TURN_OF_ADDRESS, &[&to.address_mac]).await?;
    let skipped = |limit: u32| i64::from(limit.saturating_sub(1));
    let of_caller: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&touch.caller, &skipped(limits.per_caller)];
    let of_address: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&to.address_mac, &skipped(limits.per_address)];
    for (statement, parameters, whose, limit) in [
        (LIMIT_OF_ADDRESS, of_address, "contact point", limits.per_address),
        (LIMIT_OF_CALLER, of_caller, touch.caller, limits.per_caller),
    ] {
        if let Some(row) = query(tx, "verification_limit", statement, parameters).await?.first() {
            let wait_ms: i64 = row.try_get("wait_ms").map_err(RecordError::from)?;
            let retry_after = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0).max(1));
            return Err(CodeError::TooMany { whose: whose.to_owned(), limit, retry_after }.into());
        }
    }
    Ok(())
}

/// A code that certainly went to nobody: it ends, and does not count.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn code_not_sent(pool: &Pool, id: Uuid) -> Result<(), RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("verification_not_sent");
    let statement = client.prepare_cached(NOT_SENT).await.map_err(&at)?;
    client.execute(&statement, &[&id]).await.map_err(&at)?;
    Ok(())
}

const NEWEST: &str = "
SELECT verification_id, code_mac, tries, ended_why, expires_at <= clock_timestamp() AS expired
  FROM contact_verification
 WHERE recipient_id = $1 AND channel = $2 AND address_mac = $3 AND ended_why IS DISTINCT FROM 'not_sent'
 ORDER BY started_at DESC LIMIT 1";

const TRIED: &str = "
UPDATE contact_verification
   SET tries = tries + 1, ended_why = CASE WHEN tries + 1 >= $2 THEN 'too_many_tries' END,
       code_mac = CASE WHEN tries + 1 >= $2 THEN NULL ELSE code_mac END
 WHERE verification_id = $1";

const END: &str =
    "UPDATE contact_verification SET ended_why = $2, code_mac = NULL WHERE verification_id = $1";

/// Takes a code for an address. `is_right` compares the code that was given with what is
/// stored of the one that was sent (id and MAC). The right one is somebody's word that the address is
/// the recipient's, as `attestation` says it; its time is the database's.
///
/// # Errors
/// As [`ChangeError`] tells. A wrong code is counted.
pub async fn confirm_code(
    pool: &Pool,
    touch: Touch<'_>,
    to: CodeFor<'_>,
    is_right: impl Fn(Uuid, &[u8]) -> bool + Send,
    attestation: &Attestation,
) -> Result<ContactPointView, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let channel = to.channel.as_str();
    let newest =
        query(&tx, "verification_newest", NEWEST, &[&touch.id().0, &channel, &to.address_mac]).await?;
    let newest = newest.first().ok_or(CodeError::Unknown)?;
    let id: Uuid = newest.try_get("verification_id").map_err(RecordError::from)?;
    let stored: Option<&[u8]> = newest.try_get("code_mac").map_err(RecordError::from)?;
    let Some(stored) = stored else {
        return Err(over(newest.try_get("ended_why").map_err(RecordError::from)?).into());
    };
    if newest.try_get("expired").map_err(RecordError::from)? {
        return Err(CodeError::Expired.into());
    }
    if let Err(gone) = standing(&tx, touch, to.channel, to.address).await {
        if matches!(gone, ChangeError::ContactPointRemoved) {
            query(&tx, "verification_end", END, &[&id, &"removed"]).await?;
            commit(tx).await?;
        }
        return Err(gone);
    }
    if !is_right(id, stored) {
        let tries: i16 = newest.try_get("tries").map_err(RecordError::from)?;
        query(&tx, "verification_tried", TRIED, &[&id, &i32::from(CODE_TRIES_MAX)]).await?;
        let detail = format!("{channel}, wrong code");
        touch.audit(&tx, "RecipientService/ConfirmVerification", Some(&detail)).await?;
        commit(tx).await?;
        let left = u16::try_from(CODE_TRIES_MAX - tries - 1).unwrap_or(0);
        return Err(CodeError::Wrong { left }.into());
    }
    query(&tx, "verification_end", END, &[&id, &"used"]).await?;
    let view = attest(&tx, touch, to.channel, to.address, attestation).await?;
    touch.audit(&tx, "RecipientService/ConfirmVerification", Some(channel)).await?;
    commit(tx).await?;
    Ok(view)
}

/// Why one is over.
fn over(ended_why: &str) -> CodeError {
    match ended_why {
        "used" => CodeError::Used,
        "too_many_tries" => CodeError::Void("too many tries"),
        "removed" => CodeError::Void("the contact point was removed"),
        _ => CodeError::Void("ended"),
    }
}
