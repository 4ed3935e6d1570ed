-- Which trace a notification belongs to: the W3C traceparent that came with its record.
-- Null where none came; the trace's id then follows from the notification's.
ALTER TABLE notification ADD COLUMN traceparent text;
