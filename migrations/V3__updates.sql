-- What becomes known after a message was handed over: receipts, engagement,
-- opt-outs, cancellations.

ALTER TABLE notification
    ADD COLUMN strategy      text NOT NULL DEFAULT 'in_order', -- of its channels: in_order, all_at_once
    ADD COLUMN cancelled_at  timestamptz,                   -- its caller took it back
    ADD COLUMN engagement    text,                          -- seen, read, acted: the most that is known
    ADD COLUMN engaged_at    timestamptz;

ALTER TABLE delivery
    ADD COLUMN receipt       text,                          -- the receipt that decides, by domain::Receipt's order
    ADD COLUMN receipt_at    timestamptz,
    -- True once anything but its sender may have a say in its state. An outcome
    -- is then folded into what else is known, instead of being written as it is.
    ADD COLUMN folded        boolean NOT NULL DEFAULT false;

-- For receipts that name a message by the provider's id only.
CREATE INDEX delivery_by_provider_message ON delivery (provider_message_id)
    WHERE provider_message_id IS NOT NULL;

-- The update that an entry came from: the same update again adds nothing.
ALTER TABLE consent ADD COLUMN update_id text;
CREATE UNIQUE INDEX consent_by_update ON consent (recorded_by, update_id, recipient_id, channel, purpose)
    WHERE update_id IS NOT NULL;

-- Updates about something that is not known yet: a receipt that came before its
-- delivery was recorded, a cancellation that overtook its request, an opt-out of
-- a recipient who is still to be loaded. Looked at again, more and more seldom.
CREATE TABLE unmatched_update (
    source          text NOT NULL,
    update_id       text NOT NULL,                          -- unique within its source
    kind            text NOT NULL,
    notification_id uuid,                                   -- of a cancellation: the claim looks for it
    payload         bytea NOT NULL,                         -- the record's value; identifiers, no addresses
    received_at     timestamptz NOT NULL DEFAULT now(),
    looks           integer NOT NULL DEFAULT 0,
    next_look_at    timestamptz,                            -- null: it has expired
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (source, update_id)
);
CREATE INDEX unmatched_update_expired ON unmatched_update (expires_at) WHERE next_look_at IS NULL;
CREATE INDEX unmatched_update_due ON unmatched_update (next_look_at) WHERE next_look_at IS NOT NULL;
CREATE INDEX unmatched_cancellation ON unmatched_update (notification_id)
    WHERE kind = 'cancelled' AND next_look_at IS NOT NULL;
