//! What the brokers say of a group at one moment.

use std::time::Duration;

use serde::Serialize;

/// One look at a consumer group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReading {
    /// Full name of the group.
    pub group: String,
    /// The brokers' word for the group's state, for example `Stable`; `None`: they do not
    /// know the group.
    pub group_state: Option<String>,
    /// Members of the group.
    pub members: usize,
    /// When the offsets were read: since the reader was made, by a clock that only goes
    /// forward.
    #[serde(skip)]
    pub taken: Duration,
    /// When the offsets were read, in milliseconds since 1970.
    pub at_ms: i64,
    /// Partitions by topic and number.
    pub partitions: Vec<PartitionReading>,
    /// Topics that were asked for, read before or assigned to a member, and that the
    /// brokers do not have.
    pub missing_topics: Vec<String>,
}

/// Who reads a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ownership {
    /// A member with this client id.
    Owned(String),
    /// No member.
    Nobody,
    /// The group is sharing out its partitions, or the brokers do not tell.
    Unknown,
}

/// How long a topic keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// For so many milliseconds.
    Ms(u64),
    /// Time alone deletes none.
    Endless,
    /// The brokers do not tell, or this client may not ask.
    Unknown,
}

/// One partition of a topic, as a group stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReading {
    /// Full topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset that the group reads; `None`: it has no commit.
    pub committed: Option<i64>,
    /// Oldest offset that is kept.
    pub low: i64,
    /// Offset after the newest record that can be read.
    pub high: i64,
    /// Offset of the oldest uncommitted record that is still there. `None`: there is none,
    /// or it was not found in time ([`Self::lag_messages`] tells which).
    pub oldest_offset: Option<i64>,
    /// Its timestamp, in milliseconds since 1970: its producer's or, if the topic says so,
    /// the broker's.
    pub oldest_timestamp_ms: Option<i64>,
    /// Age of that record at [`GroupReading::at_ms`], not below 0. `None` as
    /// [`Self::oldest_offset`], or the record has no timestamp.
    pub oldest_age_ms: Option<u64>,
    /// Records that are kept, can be read and are not committed; without a commit: all that
    /// are kept. Gaps that compaction or transactions left behind the oldest record count.
    pub lag_messages: i64,
    /// Who reads it.
    pub owner: Ownership,
    /// How long its topic keeps records.
    pub retention: Retention,
}

impl PartitionReading {
    /// Where the group reads on: the commit, or the oldest record that is kept when the
    /// commit points before it or there is none.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.committed.unwrap_or(self.low).max(self.low)
    }

    /// Records that were deleted before they were committed, as far as it shows now.
    #[must_use]
    pub fn lost_records(&self) -> i64 {
        self.committed.map_or(0, |committed| (self.low - committed).max(0))
    }

    /// Offsets from the position that hold no record any more, or never one that can be read.
    #[must_use]
    pub fn gap(&self) -> i64 {
        match self.oldest_offset {
            Some(oldest) => (oldest - self.position()).max(0),
            None if self.lag_messages == 0 => (self.high - self.position()).max(0),
            None => 0,
        }
    }

    /// Milliseconds until retention by time deletes the oldest uncommitted record, or the
    /// next one that comes in when there is none; infinite when it never does. `None`: not
    /// known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time")]
    pub fn retention_headroom_ms(&self) -> Option<f64> {
        match self.retention {
            Retention::Unknown => None,
            Retention::Endless => Some(f64::INFINITY),
            Retention::Ms(kept) if self.lag_messages == 0 => Some(kept as f64),
            Retention::Ms(kept) => self.oldest_age_ms.map(|age| kept.saturating_sub(age) as f64),
        }
    }
}

impl GroupReading {
    /// Records that are not committed, over all partitions.
    #[must_use]
    pub fn lag_messages(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.lag_messages).sum()
    }

    /// Age of the oldest uncommitted record of all; `None`: none is known.
    #[must_use]
    pub fn oldest_age_ms(&self) -> Option<u64> {
        self.partitions.iter().filter_map(|partition| partition.oldest_age_ms).max()
    }
}
