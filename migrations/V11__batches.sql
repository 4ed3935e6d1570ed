-- Batches: one message to up to millions of recipients.
--
-- What a publisher has done is a number in the batch's row, not a mark on each
-- recipient's: rows are written once and read once, in the order of their key.

CREATE TABLE batch (
    batch_id        uuid PRIMARY KEY,                   -- derived from caller and key
    caller          text NOT NULL,
    idempotency_key text NOT NULL,
    name            text NOT NULL,
    purpose         text NOT NULL,                      -- general, campaign
    channels        text[] NOT NULL,                    -- empty: each recipient's own order
    variables       jsonb NOT NULL,                     -- common to all rows
    rate_per_s      integer NOT NULL,
    window_start    time,                               -- null, as the next two: always
    window_end      time,
    window_zone     text,                               -- IANA
    expires_at      timestamptz NOT NULL,
    state           text NOT NULL,                      -- draft, uploading, ready, running, paused, done, cancelled
    rows_received   bigint NOT NULL DEFAULT 0,          -- stored + doubled + rejected
    rows_stored     bigint NOT NULL DEFAULT 0,
    rows_doubled    bigint NOT NULL DEFAULT 0,
    rows_rejected   bigint NOT NULL DEFAULT 0,
    csv_header      text[],                             -- null: uploaded as rows, or not at all
    bytes_received  bigint NOT NULL DEFAULT 0,          -- of a CSV file, to the end of its last row that was received
    published_to    bigint NOT NULL DEFAULT 0,          -- row_no: it and all before it are acknowledged by the broker
    rows_published  bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    ended_at        timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_by_caller ON batch (caller, created_at DESC, batch_id DESC);
CREATE INDEX batch_by_age ON batch (created_at DESC, batch_id DESC);
-- What publishers look for.
CREATE INDEX batch_running ON batch (started_at) WHERE state = 'running';

-- Nothing refers to it and it refers to nothing, so that millions of rows go in and out
-- without a look elsewhere.
CREATE TABLE batch_recipient (
    batch_id        uuid NOT NULL,
    row_no          bigint NOT NULL,                    -- in the upload, from 1; doubled and rejected rows leave gaps
    patient_id      text NOT NULL,
    recipient       text,                               -- external id; null: the patient
    notification_id uuid NOT NULL,                      -- derived from batch, patient and recipient
    variables       jsonb,                              -- PHI; over those of the batch; null: none
    PRIMARY KEY (batch_id, row_no)
);
-- A recipient is once in a batch; the id is of this batch, so it needs no other column.
CREATE UNIQUE INDEX batch_recipient_once ON batch_recipient (notification_id);

-- The first rows that were not stored; the batch has how many there were.
CREATE TABLE batch_fault (
    batch_id        uuid NOT NULL REFERENCES batch ON DELETE CASCADE,
    row_no          bigint NOT NULL,
    doubled         boolean NOT NULL,
    reason          text NOT NULL,                      -- words of ours, no value of the row
    PRIMARY KEY (batch_id, row_no)
);
