//! Who calls, and what they may do.
//!
//! [`methods`] has every method of the contract with the scope that it asks for.

pub mod methods;

use std::fmt;

use tonic::Request;

use super::error::ApiError;
use super::validate::Violations;

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Ask for notifications, take back one's own.
    NotificationsSend,
    /// Say what recipients did with notifications.
    NotificationsEngage,
    /// Look at one's own notifications.
    NotificationsRead,
    /// Look at everybody's notifications, and take them back.
    NotificationsAll,
    /// Look at recipients; addresses are masked.
    RecipientsRead,
    /// Change recipients.
    RecipientsWrite,
    /// Look at appointments.
    AppointmentsRead,
    /// Change appointments.
    AppointmentsWrite,
    /// Look at batches.
    BatchesRead,
    /// Make and steer batches.
    BatchesWrite,
    /// Look at templates.
    TemplatesRead,
    /// Look at lag, providers, processors and dead letters.
    OperationsRead,
    /// Replay dead letters, pause channels.
    OperationsAdmin,
}

impl Scope {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::NotificationsSend,
        Self::NotificationsEngage,
        Self::NotificationsRead,
        Self::NotificationsAll,
        Self::RecipientsRead,
        Self::RecipientsWrite,
        Self::AppointmentsRead,
        Self::AppointmentsWrite,
        Self::BatchesRead,
        Self::BatchesWrite,
        Self::TemplatesRead,
        Self::OperationsRead,
        Self::OperationsAdmin,
    ];

    /// The word that tokens carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotificationsSend => "notifications:send",
            Self::NotificationsEngage => "notifications:engage",
            Self::NotificationsRead => "notifications:read",
            Self::NotificationsAll => "notifications:all",
            Self::RecipientsRead => "recipients:read",
            Self::RecipientsWrite => "recipients:write",
            Self::AppointmentsRead => "appointments:read",
            Self::AppointmentsWrite => "appointments:write",
            Self::BatchesRead => "batches:read",
            Self::BatchesWrite => "batches:write",
            Self::TemplatesRead => "templates:read",
            Self::OperationsRead => "operations:read",
            Self::OperationsAdmin => "operations:admin",
        }
    }

    /// The scope of a word; `None` when there is none.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == word)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Opaque name of a backend; part of the meaning of its idempotency keys.
    pub name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    /// A caller who may do this.
    #[must_use]
    pub const fn new(name: String, scopes: Vec<Scope>) -> Self {
        Self { name, scopes }
    }

    /// Who makes this call.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when nobody is authenticated and the name that the
    /// caller gave itself is not opaque.
    pub fn of<T>(request: &Request<T>) -> Result<Self, ApiError> {
        if let Some(caller) = request.extensions().get::<Self>() {
            return Ok(caller.clone());
        }
        let mut faults = Violations::default();
        let name = faults.caller(request.metadata());
        faults.finish()?;
        Ok(Self::new(name, Scope::ALL.to_vec()))
    }

    /// May it do this?
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_has_a_word_of_its_own() {
        for &scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::parse("notifications"), None);
    }
}
