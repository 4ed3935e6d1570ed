//! PostgreSQL: every SQL statement lives here.

pub mod error;
pub mod migrate;
pub mod pool;
pub mod read;
pub mod recipients;

pub use error::RecordError;
