-- Who may be written to, where, and what they agreed to.

CREATE TABLE recipient (
    recipient_id      uuid PRIMARY KEY,                 -- derived from external_id
    external_id       text NOT NULL UNIQUE,             -- the portal's identifier
    display_name      text,                             -- PHI
    locale            text,
    time_zone         text,
    quiet_hours_start time,
    quiet_hours_end   time,
    channel_order     text[] NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    erased_at         timestamptz
);

-- Who hears about a patient: the patient, and proxies.
CREATE TABLE visibility (
    patient_id   text NOT NULL,
    recipient_id uuid NOT NULL REFERENCES recipient ON DELETE CASCADE,
    relation     text NOT NULL CHECK (relation IN ('patient', 'proxy')),
    PRIMARY KEY (patient_id, recipient_id)
);
CREATE INDEX visibility_by_recipient ON visibility (recipient_id);

CREATE TABLE contact_point (
    recipient_id uuid NOT NULL REFERENCES recipient ON DELETE CASCADE,
    channel      text NOT NULL CHECK (channel IN ('sms', 'email', 'push')),
    address      text NOT NULL,                         -- PHI
    position     smallint NOT NULL DEFAULT 0,           -- lower is tried first
    verified_at  timestamptz,                           -- null: never written to
    retired_at   timestamptz,
    retired_why  text,
    PRIMARY KEY (recipient_id, channel, address)
);

-- Append-only. The newest entry of a (recipient, channel, purpose) is in force.
CREATE TABLE consent (
    consent_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipient_id uuid NOT NULL REFERENCES recipient ON DELETE CASCADE,
    channel      text NOT NULL CHECK (channel IN ('sms', 'email', 'push')),
    purpose      text NOT NULL,
    granted      boolean NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    recorded_by  text NOT NULL,
    how          text NOT NULL
);
CREATE INDEX consent_newest ON consent (recipient_id, channel, purpose, consent_id DESC);
