-- What is told and asked from outside: whose number a text message comes from, and
-- channels that operators have paused.

-- A patient who writes STOP is known by a number. Not unique: a guardian's number
-- stands with several children.
CREATE INDEX contact_point_by_number ON contact_point (address) WHERE channel = 'sms';

-- An opt-out of every purpose is known by its own word, which a START takes back. Those
-- that are stored already have one word with the opt-outs of a single purpose; they are
-- the ones of which one update entered several purposes.
UPDATE consent k
   SET how = 'opt_out_of_all'
 WHERE NOT k.granted AND k.how = 'opt_out' AND k.update_id NOT LIKE 'given:%'
   AND EXISTS (
       SELECT FROM consent other
        WHERE other.recorded_by = k.recorded_by AND other.update_id = k.update_id
          AND other.recipient_id = k.recipient_id AND other.channel = k.channel
          AND other.purpose <> k.purpose);

-- A channel is paused while its row is here. Every process that sends looks at it
-- about once a second.
CREATE TABLE channel_pause (
    channel         text PRIMARY KEY CHECK (channel IN ('sms', 'email', 'push')),
    except_critical boolean NOT NULL,                   -- critical messages go out all the same
    why             text NOT NULL,                      -- words of the operator
    paused_by       text NOT NULL,                      -- the caller's name
    paused_at       timestamptz NOT NULL DEFAULT now()
);

-- What a pause holds, found without reading everything that waits.
CREATE INDEX delivery_paused ON delivery (channel, urgency, due_at)
    WHERE state = 'held' AND reason = 'channel_paused';

-- The processes that send, as each says of itself every few seconds. What has not
-- been seen for an hour is removed.
CREATE TABLE sender (
    owner           uuid PRIMARY KEY,                   -- as in delivery.owner
    role            text NOT NULL,
    breakers_open   text[] NOT NULL,                    -- channels whose provider it leaves alone for now
    started_at      timestamptz NOT NULL DEFAULT now(),
    seen_at         timestamptz NOT NULL DEFAULT now()
);
