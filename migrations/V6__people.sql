-- People as the portal keeps them: who may hear of a patient and until when, how an
-- address was verified, devices, and erasures that are not through yet.

-- Of proxies. Columns that are null do not limit anything.
ALTER TABLE visibility
    ADD COLUMN valid_from         timestamptz,              -- hears nothing before
    ADD COLUMN valid_until        timestamptz,              -- hears nothing from then on
    ADD COLUMN purposes           text[],                   -- hears of these only
    ADD COLUMN granted_at         timestamptz,
    ADD COLUMN granted_by         text,                     -- who recorded it, opaque
    ADD COLUMN granted_by_patient boolean NOT NULL DEFAULT false;

-- Patients who are or were minors. From then on, proxies hear only what the patient
-- granted at that time or later.
CREATE TABLE coming_of_age (
    patient_id   text PRIMARY KEY,
    of_age_at    timestamptz NOT NULL
);

ALTER TABLE contact_point
    ADD COLUMN verified_by  text,                           -- who attested it, opaque
    ADD COLUMN verified_how text,
    ADD COLUMN platform     text CHECK (platform IN ('android', 'ios', 'web')),
    ADD COLUMN app_version  text,
    ADD COLUMN seen_at      timestamptz;                    -- the app on the device said so last

-- One device shows the news of one person: whoever was verified last has it.
UPDATE contact_point c
   SET retired_at = now(), retired_why = 'moved'
 WHERE c.channel = 'push' AND c.retired_at IS NULL
   AND EXISTS (SELECT FROM contact_point o
                WHERE o.channel = 'push' AND o.retired_at IS NULL AND o.address = c.address
                  AND (coalesce(o.verified_at, '-infinity'), o.recipient_id)
                    > (coalesce(c.verified_at, '-infinity'), c.recipient_id));
CREATE UNIQUE INDEX contact_point_device ON contact_point (address)
    WHERE channel = 'push' AND retired_at IS NULL;

-- Erasures under way, and for a while those that are done: what was being accepted
-- when the recipient was erased is looked for once more.
CREATE TABLE erasure (
    recipient_id uuid PRIMARY KEY,
    begun_at     timestamptz NOT NULL DEFAULT now(),
    looked_up_to uuid,                                      -- notifications up to this one are done
    under_way    integer NOT NULL DEFAULT 0,                -- found with a provider, on this turn
    complete     boolean NOT NULL DEFAULT false,            -- a turn found nothing that was under way
    next_look_at timestamptz                                -- null: never again
);
CREATE INDEX erasure_due ON erasure (next_look_at) WHERE next_look_at IS NOT NULL;

-- Neither column ever changes: updates stay on their page.
CREATE INDEX notification_by_recipient ON notification (recipient_id, notification_id);
-- For claims, which ask for a whole batch and find nobody.
CREATE INDEX recipient_erased ON recipient (recipient_id) WHERE erased_at IS NOT NULL;
