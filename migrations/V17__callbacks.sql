-- Status changes on their way to callers that want to be called back.
--
-- The outbox's relay writes an event in the statement that takes the change out of the
-- outbox: each published change becomes an event once, those of a notification by
-- sequence. An event waits while an earlier one of its notification is pending.

CREATE TABLE callback_event (
    notification_id uuid NOT NULL,
    sequence        integer NOT NULL,
    caller          text NOT NULL,                      -- who is called
    patient_id      text NOT NULL,
    recipient_id    uuid NOT NULL,
    purpose         text NOT NULL,
    status          text NOT NULL,                      -- the notification's state
    reason          text NOT NULL,
    channel         text,
    changed_at      timestamptz NOT NULL,
    state           text NOT NULL DEFAULT 'pending',    -- pending, delivered, parked
    attempts        integer NOT NULL DEFAULT 0,
    first_due_at    timestamptz NOT NULL DEFAULT now(), -- since when nothing is before it; it is tried for 24 h
    due_at          timestamptz NOT NULL DEFAULT now(), -- while it has an owner: when the claim runs out
    owner           uuid,                               -- who calls
    epoch           integer NOT NULL DEFAULT 0,         -- grows with each claim
    ended_at        timestamptz,                        -- delivered or parked
    PRIMARY KEY (notification_id, sequence)
);
CREATE INDEX callback_event_due ON callback_event (caller, due_at) WHERE state = 'pending';
CREATE INDEX callback_event_overdue ON callback_event (first_due_at) WHERE state = 'pending';
CREATE INDEX callback_event_parked ON callback_event (caller, changed_at) WHERE state = 'parked';
CREATE INDEX callback_event_ended ON callback_event (state, ended_at) WHERE ended_at IS NOT NULL;

-- How the end that is called stands; one row a caller that has or had one.
CREATE TABLE callback_endpoint (
    caller          text PRIMARY KEY,
    url_digest      bytea NOT NULL,                     -- another address is another chance
    failures        integer NOT NULL DEFAULT 0,         -- since the last success
    failing_since   timestamptz,
    last_failure    text,                               -- a word of ours, or the HTTP status
    probe_at        timestamptz NOT NULL DEFAULT now(), -- while it fails: when one event may be tried
    disabled_at     timestamptz,                        -- it answered 410
    removed_at      timestamptz                         -- no longer configured
);
