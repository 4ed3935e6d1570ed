-- Ticks of cron's jobs, and what retention looks for.

-- A tick is won by inserting its row: by one replica, whatever their number. What a
-- runner has done is saved in it step by step; one that dies leaves its lease, and the
-- next runner goes on at the cursor.
CREATE TABLE cron_tick (
    job             text NOT NULL,
    due_at          timestamptz NOT NULL,               -- by the schedule; of a manual tick: when it was asked for
    manual          boolean NOT NULL DEFAULT false,     -- asked for by an operator
    run_by          text,                               -- of a manual tick: who asked
    state           text NOT NULL,                      -- running, done, failed, skipped
    fault           text,                               -- failed, skipped: why; words of ours
    passed_over     integer NOT NULL DEFAULT 0,         -- older ticks that were missed and are not run
    owner           uuid,                               -- of the lease; null: given back
    epoch           integer NOT NULL DEFAULT 1,         -- grows with each runner
    lease_until     timestamptz,                        -- running: from then on anybody may go on
    deaths          integer NOT NULL DEFAULT 0,         -- runners whose lease ran out
    progress        jsonb,                              -- the job's cursor; null: at the beginning
    counts          jsonb NOT NULL DEFAULT '{}',        -- what was done, by words of ours
    started_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    PRIMARY KEY (job, due_at)
);
-- A job runs once at a time.
CREATE UNIQUE INDEX cron_tick_running ON cron_tick (job) WHERE state = 'running';

-- Contents that are still there, oldest first. Neither column changes before the
-- contents go: updates of a notification stay on its page. It serves the digest, too.
ALTER TABLE notification ADD COLUMN contents_erased boolean NOT NULL DEFAULT false;
CREATE INDEX notification_contents ON notification (purpose, accepted_at, notification_id)
    WHERE NOT contents_erased;

ALTER TABLE batch ADD COLUMN contents_erased_at timestamptz;    -- its rows and values are gone, its counts stay
CREATE INDEX batch_contents ON batch (ended_at) WHERE ended_at IS NOT NULL AND contents_erased_at IS NULL;

CREATE INDEX appointment_location ON appointment (starts_at) WHERE location IS NOT NULL;
CREATE INDEX appointment_reminder_ended ON appointment_reminder (starts_at) WHERE look_at IS NULL;
