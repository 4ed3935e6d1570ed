-- Publishers take turns at running batches. The queue of what is to be looked at takes
-- the place of the index of what runs.

ALTER TABLE batch ADD COLUMN look_at timestamptz;       -- when a publisher must look next: its turn, or the end of the
                                                        -- lease of the one whose turn it is; null: it does not run
UPDATE batch SET look_at = now() WHERE state = 'running';
CREATE INDEX batch_due ON batch (look_at) WHERE look_at IS NOT NULL;
DROP INDEX batch_running;
