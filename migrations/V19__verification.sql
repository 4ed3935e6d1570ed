-- Codes that prove that an address is its recipient's. Neither code nor address stands
-- here: only what a key that is not in the database makes of them. Each start takes along
-- rows that are a day old; an erasure takes the recipient's.

CREATE TABLE contact_verification (
    verification_id uuid PRIMARY KEY,
    recipient_id    uuid NOT NULL REFERENCES recipient ON DELETE CASCADE,
    channel         text NOT NULL CHECK (channel IN ('sms', 'email')),
    address_mac     bytea NOT NULL,                     -- of channel and address
    code_mac        bytea,                              -- of verification_id and code; null once it is over
    caller          text NOT NULL,                      -- who started it
    tries           smallint NOT NULL DEFAULT 0,        -- wrong codes so far
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    ended_why       text CHECK (ended_why IN ('used', 'replaced', 'too_many_tries', 'removed', 'not_sent')),
    CHECK ((ended_why IS NULL) = (code_mac IS NOT NULL))
);
CREATE INDEX contact_verification_recipient ON contact_verification (recipient_id);
-- A new start ends the one before.
CREATE UNIQUE INDEX contact_verification_open ON contact_verification (recipient_id, channel, address_mac)
    WHERE ended_why IS NULL;
-- How many there were within an hour; the first serves the look for the newest, too.
CREATE INDEX contact_verification_address ON contact_verification (address_mac, started_at);
CREATE INDEX contact_verification_caller ON contact_verification (caller, started_at);
CREATE INDEX contact_verification_started ON contact_verification (started_at);
