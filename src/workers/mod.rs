//! What was deferred: claim due → act → record, one file a queue.

pub mod batches;
pub mod depth;
pub mod callbacks;
pub mod due;
pub mod erasure;
pub mod escalation;
pub mod jobs;
pub mod paused;
mod places;
pub mod relay;
pub mod reminders;
pub mod rounds;
pub mod unmatched;
