-- Appointments, and the reminders that are made of them.
--
-- Both change together, in one transaction that holds the appointment's row.

CREATE TABLE appointment (
    appointment_id  text PRIMARY KEY,                   -- opaque; unique in the portal
    patient_id      text NOT NULL,
    recipients      text[] NOT NULL,                    -- who is reminded besides the patient; external ids
    starts_at       timestamptz NOT NULL,
    time_zone       text NOT NULL,                      -- IANA; of the place
    location        text,                               -- PHI; null: none, or erased
    status          text NOT NULL,                      -- booked, confirmed, cancelled
    offsets_s       integer[] NOT NULL,                 -- before the start, longest first
    version         bigint NOT NULL DEFAULT 1,          -- grows with each change
    schedule        integer NOT NULL DEFAULT 1,         -- grows when the start changes or it is booked again
    notice          text NOT NULL,                      -- what the last change is called in a notice: made, moved,
                                                        -- cancelled, updated
    notice_version  bigint NOT NULL,                    -- the version that brought it
    source_updated_at timestamptz,                      -- by the source's clock; an older one changes nothing
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX appointment_by_patient ON appointment (patient_id, starts_at, appointment_id);

-- A reminder belongs to a schedule: an appointment that is moved gets new ones, so that
-- a reminder which was sent for the old time is no obstacle to that of the new one, and
-- history stays. Rows go with their appointment.
CREATE TABLE appointment_reminder (
    appointment_id  text NOT NULL REFERENCES appointment ON DELETE CASCADE,
    schedule        integer NOT NULL,
    offset_s        integer NOT NULL,
    starts_at       timestamptz NOT NULL,               -- of this schedule
    due_at          timestamptz NOT NULL,               -- starts_at - offset_s, exactly
    state           text NOT NULL,                      -- planned, fired, skipped, cancelled, recalling, recalled
    reason          text NOT NULL,
    recipients      text[],                             -- to whom it was published; null before
    look_at         timestamptz,                        -- when a worker must look next: planned: due_at; recalling: at
                                                        -- once; claimed: the end of the lease; null: never
    owner           uuid,                               -- who holds the lease
    fired_at        timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (appointment_id, schedule, offset_s)
) WITH (fillfactor = 80);
-- The queue of what is due, claims of dead owners included.
CREATE INDEX appointment_reminder_due ON appointment_reminder (look_at) WHERE look_at IS NOT NULL;
