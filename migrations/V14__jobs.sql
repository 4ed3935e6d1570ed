-- The general queue: work that somebody asked for, or that comes back by itself, done
-- once by any of the processes that look; and what exports leave behind for a day.

CREATE TABLE job (
    job_id          uuid PRIMARY KEY,                   -- grows with time
    kind            text NOT NULL,
    job_key         text NOT NULL,                      -- opaque; once a kind while it is queued or running
    state           text NOT NULL,                      -- queued, running, done, parked, cancelled
    priority        smallint NOT NULL,                  -- lower goes first
    attempts        integer NOT NULL DEFAULT 0,         -- those that count; the one that runs is among them
    attempts_max    integer NOT NULL,
    timeout_ms      bigint NOT NULL,                    -- of one attempt
    arguments       jsonb NOT NULL,                     -- no health information
    progress        jsonb NOT NULL,                     -- the same; where the next attempt goes on
    fault           text,                               -- why the last attempt did not succeed; a word of ours
    owner           uuid,                               -- who holds the lease
    epoch           integer NOT NULL DEFAULT 0,         -- grows with each claim
    look_at         timestamptz,                        -- queued: when it is due; running: the end of the lease;
                                                        -- null: it has ended, or waits for a person
    requested_by    text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,                        -- first attempt
    ended_at        timestamptz,                        -- when it was done, parked or cancelled
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX job_once ON job (kind, job_key) WHERE state IN ('queued', 'running');
-- The queue of what is due, leases of dead owners included.
CREATE INDEX job_due ON job (priority, look_at) WHERE look_at IS NOT NULL;
CREATE INDEX job_ended ON job (ended_at) WHERE ended_at IS NOT NULL;

-- All that is kept of one patient, as it was when the job wrote it. Health information:
-- the only place outside of the tables that it comes from, for a day.
CREATE TABLE export (
    job_id          uuid PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    patient_id      text NOT NULL,
    caller          text NOT NULL,                      -- who asked for it, and may fetch it
    chunks          integer,                            -- null, as the next two: it is not written yet
    lines           bigint,
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
-- An erasure takes exports along.
CREATE INDEX export_by_patient ON export (patient_id);
CREATE INDEX export_expired ON export (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE export_chunk (
    job_id          uuid NOT NULL REFERENCES export ON DELETE CASCADE,
    chunk_no        integer NOT NULL,                   -- from 1
    content         text NOT NULL,                      -- PHI; whole lines of NDJSON
    PRIMARY KEY (job_id, chunk_no)
);

-- Devices that are out of use go after a while.
CREATE INDEX contact_point_retired_device ON contact_point (retired_at)
    WHERE channel = 'push' AND retired_at IS NOT NULL;
