//! PostgreSQL: every SQL statement of the service lives here.

pub mod addressees;
mod aftermath;
pub mod appointments;
pub mod audit;
pub mod batch_rows;
pub mod batches;
mod cases;
pub mod claim;
pub mod conflict;
pub mod due;
pub mod error;
pub mod facts;
pub mod folded;
pub mod migrate;
pub mod outbox;
pub mod outcome;
pub mod pauses;
pub mod pool;
pub mod quota;
pub mod read;
pub mod recipients;
pub mod reminders;
pub mod report;
pub mod store;
pub mod unmatched;
pub mod updates;

pub use audit::AuditEntry;
pub use claim::{Claim, Claimed, FirstDelivery, Source};
pub use conflict::Repeated;
pub use due::{DueDelivery, DueLane};
pub use error::RecordError;
pub use outbox::{OutboxRow, Relay};
pub use outcome::{NextDelivery, Recorded};
pub use store::{Owner, Store};
pub use updates::{Applied, Update};
