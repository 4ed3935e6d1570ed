//! Recipients: whole states in batches, and every single change that the front makes.
//!
//! A change locks the recipient's row first, so changes of one recipient follow one
//! another; it ends with a line in the audit log, in the same transaction.

mod consents;
mod contact_points;
mod devices;
mod erasure;
mod preferences;
mod proxies;
mod stale_devices;
mod upsert;
mod upsert_points;
mod verification;
mod view;

pub use consents::{ConsentLine, ConsentPage, list_consents, record_consent};
pub use contact_points::{
    Attestation, ContactPointPut, put_contact_point, remove_contact_point, verify_contact_point,
};
pub use devices::{
    DEVICES_MAX, DeviceRegistration, DeviceView, Registered, list_devices, register_device, unregister_device,
};
pub use erasure::{Erased, erase};
pub use preferences::{PreferencesPatch, PreferencesView, update_preferences};
pub use proxies::{Grant, PatientPage, grant_proxy, list_by_patient, revoke_proxy, set_coming_of_age};
pub use stale_devices::{FORGOTTEN_AFTER, STALE_AFTER, StaleDevices};
pub use upsert::{ConsentUpsert, ContactPointUpsert, RecipientUpsert, Upserted, upsert, upsert_many};
pub use verification::{
    CODE_TRIES_MAX, CODE_VALID, CodeError, CodeFor, CodeStarted, StartLimits, code_not_sent, confirm_code,
    start_code,
};
pub use view::{AccessView, ConsentView, ContactPointView, RecipientView, recipient};

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::Row;

use super::audit::{self, AuditEntry};
use super::cases::query;
use super::error::RecordError;
use crate::domain::RecipientId;

/// Addresses in use, all channels together, of one recipient.
pub const CONTACT_POINTS_MAX: usize = 32;
/// Patients of whom one recipient hears, and proxies of one patient.
pub const LINKS_MAX: usize = 64;

/// How a word came into the consent ledger that was said to us and not to a caller. By these
/// the ledger knows what a START may take back, so no caller may use them.
pub const LEDGER_WORDS: [&str; 4] = ["opt_in", "opt_out", "opt_out_of_all", "refused_by_provider"];

/// `contact_point.retired_why` of an address that was taken away by a call.
const REMOVED: &str = "removed";

/// Why a recipient was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such recipient.
    #[error("recipient was not found")]
    Unknown,
    /// The recipient was erased.
    #[error("recipient was erased and cannot be written again")]
    Erased,
    /// The recipient has no such address.
    #[error("contact point was not found")]
    UnknownContactPoint,
    /// The address is not in use, and nobody said that it is dead.
    #[error("contact point was removed: put it before it is verified")]
    ContactPointRemoved,
    /// There is no place for another address.
    #[error("recipient has {CONTACT_POINTS_MAX} contact points, which is the most: remove one first")]
    TooManyContactPoints,
    /// There is no place for another link.
    #[error("recipient or patient has {LINKS_MAX} links, which is the most: revoke one first")]
    TooManyLinks,
    /// The recipient is the patient, and nobody's proxy.
    #[error("recipient is the patient and not a proxy: Upsert says who is what")]
    LinkIsPatient,
    /// Others may not grant access to a grown-up's news.
    #[error("patient is of age: only the patient grants access")]
    PatientOfAge,
    /// A code proves nothing.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The database failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Whose state is touched, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Touch<'a> {
    /// The portal's identifier of the recipient.
    pub recipient: &'a str,
    /// Who calls.
    pub caller: &'a str,
}

impl Touch<'_> {
    /// Ours.
    #[must_use]
    pub fn id(&self) -> RecipientId {
        RecipientId::from_external(self.recipient)
    }

    async fn audit(
        &self,
        client: &impl GenericClient,
        action: &'static str,
        detail: Option<&str>,
    ) -> Result<(), RecordError> {
        let Self { recipient, caller } = *self;
        audit::append(
            client,
            &AuditEntry { caller, action, subject_kind: "recipient", subject: recipient, detail },
        )
        .await
    }

    /// Begins a change: the recipient is there, not erased, and locked until the
    /// transaction ends.
    async fn begin<'c>(&self, client: &'c mut Client) -> Result<Transaction<'c>, ChangeError> {
        let tx = client.transaction().await.map_err(RecordError::at("recipient_begin"))?;
        match lock(&tx, self.id()).await? {
            None => Err(ChangeError::Unknown),
            Some(true) => Err(ChangeError::Erased),
            Some(false) => Ok(tx),
        }
    }

    /// Begins a look at a recipient, erased or not.
    async fn look<'c>(&self, client: &'c mut Client) -> Result<Transaction<'c>, ChangeError> {
        let tx = client.transaction().await.map_err(RecordError::at("recipient_look"))?;
        let row = query(&tx, "recipient_look", KNOWN, &[&self.id().0]).await?;
        if row.is_empty() { Err(ChangeError::Unknown) } else { Ok(tx) }
    }
}

const LOCK: &str =
    "SELECT erased_at IS NOT NULL AS erased FROM recipient WHERE recipient_id = $1 FOR NO KEY UPDATE";

const KNOWN: &str = "SELECT FROM recipient WHERE recipient_id = $1";

/// Locks a recipient and tells whether it was erased; `None`: there is none.
async fn lock(tx: &Transaction<'_>, id: RecipientId) -> Result<Option<bool>, RecordError> {
    let rows = query(tx, "recipient_lock", LOCK, &[&id.0]).await?;
    rows.first().map(|row| Ok(row.try_get("erased")?)).transpose()
}

async fn commit(tx: Transaction<'_>) -> Result<(), RecordError> {
    tx.commit().await.map_err(RecordError::at("recipient_commit"))
}

/// A column that holds one of our words.
fn word<T>(row: &Row, column: &'static str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    parse(row.try_get(column)?).ok_or_else(|| unknown_word(column))
}

fn unknown_word(column: &str) -> RecordError {
    RecordError::bug(format!("column {column} has a value that this version does not know"))
}

/// How many rows a page and its successor's first one have.
fn one_more(page_size: usize) -> i64 {
    i64::try_from(page_size).unwrap_or(i64::MAX).saturating_add(1)
}
