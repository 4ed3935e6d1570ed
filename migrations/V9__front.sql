-- What the front lists, and whose a notification is when somebody takes it back.
--
-- None of the indexed columns is ever updated, so updates of a notification stay on
-- its page. The indexes are built while writers wait.

ALTER TABLE notification ADD COLUMN cancelled_by text;      -- who took it back; null before this version

-- Newest first, a page at a time: of a patient, and of a caller.
CREATE INDEX notification_by_patient ON notification (patient_id, accepted_at, notification_id);
CREATE INDEX notification_by_caller ON notification (caller, accepted_at, notification_id)
    WHERE caller IS NOT NULL;

-- Of a cancellation: it counts only for a notification of this caller; null: for anybody's.
ALTER TABLE unmatched_update ADD COLUMN caller text;
