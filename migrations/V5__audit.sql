-- Who changed what, and who looked at whom. Append-only; it outlives erasure, and
-- holds no health information: identifiers and words of ours.

CREATE TABLE audit (
    audit_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    caller          text NOT NULL,
    action          text NOT NULL,                      -- service and method, for example RecipientService/Upsert
    subject_kind    text NOT NULL,                      -- recipient, appointment, batch, channel …
    subject         text NOT NULL,                      -- its identifier
    detail          text                                -- words of ours
);
CREATE INDEX audit_by_subject ON audit (subject_kind, subject, audit_id DESC);
