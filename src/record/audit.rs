//! Who changed what, and who looked at whom.

use deadpool_postgres::GenericClient;

use super::error::RecordError;

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry<'a> {
    /// Who called.
    pub caller: &'a str,
    /// Service and method, for example `RecipientService/Upsert`.
    pub action: &'static str,
    /// What it concerns: `recipient`, `appointment`, `batch`, `channel` and others to come.
    pub subject_kind: &'static str,
    /// Its identifier, at most 64 characters.
    pub subject: &'a str,
    /// More, in words of ours, never of a patient.
    pub detail: Option<&'a str>,
}

const APPEND: &str =
    "INSERT INTO audit (caller, action, subject_kind, subject, detail) VALUES ($1, $2, $3, $4, $5)";

/// Appends a line; in the transaction of the change that it tells of.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn append(client: &impl GenericClient, entry: &AuditEntry<'_>) -> Result<(), RecordError> {
    let statement = client.prepare_cached(APPEND).await.map_err(RecordError::at("audit"))?;
    let AuditEntry { caller, action, subject_kind, subject, detail } = entry;
    client
        .execute(&statement, &[caller, action, subject_kind, subject, detail])
        .await
        .map_err(RecordError::at("audit"))?;
    Ok(())
}
