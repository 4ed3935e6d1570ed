-- What was decided, what is being tried, and why.
--
-- fillfactor 80: a row is inserted once and updated a few times. Updates of a
-- notification touch no indexed column and stay on its page (heap-only tuples);
-- those of a delivery move due_at, which is indexed, and at least find room there.

CREATE TABLE notification (
    notification_id uuid PRIMARY KEY,                   -- derived from its meaning
    patient_id      text NOT NULL,
    recipient_id    uuid NOT NULL,
    purpose         text NOT NULL,
    urgency         text NOT NULL,
    state           text NOT NULL,
    reason          text NOT NULL,
    sequence        integer NOT NULL DEFAULT 1,         -- of its status changes
    fingerprint     bytea NOT NULL,                     -- SHA-256 of the request: same key, other payload
    caller          text,
    channels        text[] NOT NULL,                    -- the plan's order; deliveries follow it
    locale          text NOT NULL,
    variables       jsonb,                              -- PHI; null after erasure
    source_topic    text NOT NULL,
    source_partition integer NOT NULL,
    source_offset   bigint NOT NULL,
    published_at    timestamptz NOT NULL,               -- timestamp of the source record
    accepted_at     timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);

CREATE TABLE delivery (
    delivery_id     uuid PRIMARY KEY,                   -- derived from notification and channel
    notification_id uuid NOT NULL,
    recipient_id    uuid NOT NULL,
    channel         text NOT NULL,
    position        smallint NOT NULL,                  -- in notification.channels
    urgency         text NOT NULL,
    state           text NOT NULL,
    reason          text NOT NULL,
    address         text,                               -- PHI; as planned; null after erasure
    attempt         integer NOT NULL DEFAULT 0,         -- provider calls that count
    attempt_group   integer NOT NULL DEFAULT 1,         -- same key to the provider within a group
    epoch           integer NOT NULL DEFAULT 0,         -- grows with each claim
    owner           uuid,                               -- who holds the claim
    due_at          timestamptz,                        -- when somebody must look at it next:
                                                        -- held, queued, temporary_failure: when to send;
                                                        -- dispatching: when the claim's lease ends;
                                                        -- outcome_unknown: when to look it up;
                                                        -- null: nothing is planned
    first_attempt_at timestamptz,
    unknown_since   timestamptz,                        -- since when its outcome is unknown
    expires_at      timestamptz NOT NULL,
    provider        text,
    provider_message_id text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
-- One index for everything that waits, claims of dead owners included. There is
-- none on notification_id: a delivery's id follows from notification and channel.
CREATE INDEX delivery_due ON delivery (due_at) WHERE due_at IS NOT NULL;

-- Every decision and suppression, append-only; it outlives the erasure of contents.
CREATE TABLE why (
    why_id          bigint GENERATED ALWAYS AS IDENTITY,
    notification_id uuid NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    step            text NOT NULL,                      -- plan, claim, deliver, record …
    state           text NOT NULL,
    reason          text NOT NULL,
    channel         text,
    detail          text                                -- words of ours, never of a patient
);
CREATE INDEX why_by_notification ON why (notification_id);

-- Status changes on their way to pat.notification-status.v1. The id is drawn
-- while the notification's row is locked, so ids of one notification grow with
-- its sequence; a relay publishes in id order and deletes.
CREATE TABLE outbox (
    outbox_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    notification_id uuid NOT NULL,
    patient_id      text NOT NULL,
    recipient_id    uuid NOT NULL,
    purpose         text NOT NULL,
    sequence        integer NOT NULL,
    state           text NOT NULL,
    reason          text NOT NULL,
    channel         text,
    caller          text,
    changed_at      timestamptz NOT NULL DEFAULT now()
);
