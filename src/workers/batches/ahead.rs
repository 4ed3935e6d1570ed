//! Rows that were read before their turn.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::BatchId;
use crate::record::batch_publish::NextRow;

/// How long rows are kept for a turn that does not come: the batch is paused, or
/// another process has it.
const KEPT: Duration = Duration::from_secs(10);

/// The next rows of the batches of one process, one page a batch. A row never changes
/// after its upload, so a page that follows the cursor is as good as one read now.
#[derive(Default)]
pub(super) struct Ahead(Mutex<HashMap<BatchId, Page>>);

struct Page {
    after: i64,
    rows: Vec<NextRow>,
    read_at: Instant,
}

impl Ahead {
    /// The page after a row, if that is the one that was read.
    pub(super) fn take(&self, batch: BatchId, after: i64) -> Option<Vec<NextRow>> {
        let page = self.0.lock().remove(&batch);
        page.filter(|page| page.after == after).map(|page| page.rows)
    }

    /// Forgets pages whose turn did not come.
    pub(super) fn prune(&self) {
        self.0.lock().retain(|_, page| page.read_at.elapsed() < KEPT);
    }

    /// Keeps the page after a row.
    pub(super) fn put(&self, batch: BatchId, after: i64, rows: Vec<NextRow>) {
        self.0.lock().insert(batch, Page { after, rows, read_at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_used_once_and_only_where_it_follows() {
        let (ahead, batch) = (Ahead::default(), BatchId(uuid::Uuid::nil()));
        ahead.put(batch, 10, Vec::new());
        assert_eq!(ahead.take(batch, 10), Some(Vec::new()));
        assert_eq!(ahead.take(batch, 10), None);
        ahead.put(batch, 10, Vec::new());
        assert_eq!(ahead.take(batch, 5), None, "the turn before it ended earlier");
        assert!(ahead.0.lock().is_empty());
    }
}
