//! What was deferred: claim due → act → record, one file a queue.

pub mod due;
pub mod erasure;
pub mod relay;
pub mod unmatched;
