-- Batches: how fast they are, what became of their messages, and whether they add up.
-- Appointments: which notice was asked for. And an index that cost every receipt a
-- write of its own.

-- Two marks of progress, some seconds apart: the older one is what the rate is
-- measured from.
ALTER TABLE batch ADD COLUMN mark_rows bigint;          -- rows_published at the older mark; null: none, as the next three
ALTER TABLE batch ADD COLUMN mark_at timestamptz;
ALTER TABLE batch ADD COLUMN next_mark_rows bigint;     -- at the younger one
ALTER TABLE batch ADD COLUMN next_mark_at timestamptz;

-- What became of a batch's messages, as it was last counted: an answer that is asked
-- for again and again is counted now and then.
CREATE TABLE batch_count (
    batch_id        uuid PRIMARY KEY REFERENCES batch ON DELETE CASCADE,
    counted_at      timestamptz NOT NULL,
    estimated       boolean NOT NULL,                   -- scaled from a sample
    states          text[] NOT NULL,
    counts          bigint[] NOT NULL                   -- of the state in the same place
);

-- A check of a batch goes through its rows in steps; the newest one is kept.
CREATE TABLE batch_check (
    batch_id        uuid PRIMARY KEY REFERENCES batch ON DELETE CASCADE,
    repair          boolean NOT NULL,                   -- what is missing is published again
    asked_by        text NOT NULL,
    asked_at        timestamptz NOT NULL DEFAULT now(),
    published_to    bigint,                             -- of the batch when the check began; null: it has not, as the next two
    published       bigint,                             -- rows_published then
    stored          bigint,                             -- rows_stored then
    ends            bigint[],                           -- end of the bulk topic a partition, after that; null: not known yet
    topic_passed    boolean NOT NULL DEFAULT false,     -- the consumers have committed past these ends
    checked_to      bigint NOT NULL DEFAULT 0,          -- row_no: it and all before it were looked at
    rows            bigint NOT NULL DEFAULT 0,          -- rows that are there
    rows_published  bigint NOT NULL DEFAULT 0,          -- of them up to published_to
    ended           bigint NOT NULL DEFAULT 0,          -- of these, with a notification that has ended
    open            bigint NOT NULL DEFAULT 0,          -- with one that has not
    missing         bigint NOT NULL DEFAULT 0,          -- with none
    republished     bigint NOT NULL DEFAULT 0,          -- of the missing ones
    first_missing   bigint[] NOT NULL DEFAULT '{}',     -- row numbers
    look_at         timestamptz DEFAULT now(),          -- when a worker must look next, or the end of its lease; null: never
    finished_at     timestamptz                         -- null: it goes on
);
CREATE INDEX batch_check_due ON batch_check (look_at) WHERE look_at IS NOT NULL;

ALTER TABLE appointment ADD COLUMN told_version bigint; -- notice_version, where a call asked to tell it; null: none

-- What a pause holds is due when it expires. An index whose condition names state and
-- reason makes every update of a delivery touch all its indexes (it is no longer
-- heap-only), receipts above all; due_at is in an index anyway, expires_at never changes.
UPDATE delivery SET due_at = greatest(due_at, expires_at) WHERE state = 'held' AND reason = 'channel_paused';
DROP INDEX delivery_paused;
CREATE INDEX delivery_paused ON delivery (channel, urgency) WHERE due_at >= expires_at;
