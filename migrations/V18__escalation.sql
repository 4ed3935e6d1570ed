-- Escalation: the next channel is begun because of what did not happen in time.

ALTER TABLE delivery ADD COLUMN sent_at timestamptz;                -- when a provider had it, as first known

-- What the last escalation began, and why: a delivery that is known to have arrived does
-- not call off what was begun because nobody read it.
ALTER TABLE notification
    ADD COLUMN escalated_position smallint,                         -- in notification.channels
    ADD COLUMN escalated_why      text;                             -- not_sent_in_time, not_delivered_in_time, not_read_in_time

-- Notifications that have another channel and whose newest one lacks evidence. A row is
-- there from the first outcome that waits for some until nothing more can be begun.
CREATE TABLE escalation (
    notification_id uuid PRIMARY KEY,
    look_at         timestamptz NOT NULL
);
CREATE INDEX escalation_look ON escalation (look_at);
