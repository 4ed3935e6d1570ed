-- Due rows a channel and an urgency: thousands of text messages that wait for a provider
-- that is away, or a campaign that falls due at once, must not stand before one critical
-- e-mail in the index that the workers read.
--
-- The index is built while writers wait. A program from before this migration still
-- claims correctly without the old ones, only slowly, until it is replaced.

CREATE INDEX delivery_due ON delivery (channel, urgency, due_at) WHERE due_at IS NOT NULL;
DROP INDEX delivery_due_urgent;
DROP INDEX delivery_due_bulk;
