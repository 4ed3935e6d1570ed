-- Due rows in two lanes: hundreds of thousands of bulk rows that fall due at once
-- must not stand before one critical retry in the index that the workers read.
--
-- The indexes are built while writers wait. A program from before this migration
-- still claims correctly without the old index, only slowly, until it is replaced.

CREATE INDEX delivery_due_urgent ON delivery (due_at) WHERE due_at IS NOT NULL AND urgency <> 'bulk';
CREATE INDEX delivery_due_bulk ON delivery (due_at) WHERE due_at IS NOT NULL AND urgency = 'bulk';
DROP INDEX delivery_due;
