//! What was deferred: claim due → act → record, one file a queue.

pub mod batches;
pub mod callbacks;
pub mod due;
pub mod erasure;
pub mod paused;
pub mod relay;
pub mod reminders;
pub mod rounds;
pub mod unmatched;
