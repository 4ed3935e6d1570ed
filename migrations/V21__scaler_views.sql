-- What the autoscaler may see of the database: how many deliveries are due now, and nothing
-- of them. KEDA selects from it every few seconds (deploy/keda/base/wrk-notifications.yaml).
--
-- Counted by the index, and only as far as the most pods need: maxReplicaCount times the
-- targetQueryValue of the lane, 6 x 2,500 and 6 x 5,000 (`make lint-manifests` compares them).
-- So a look costs the same, whatever is due. Held rows have their time ahead, and so has what
-- an open breaker put off.

CREATE VIEW scaler_due_deliveries AS
SELECT 'urgent' AS lane, count(*) AS due
  FROM (SELECT FROM unnest(ARRAY['sms', 'email', 'push']) AS channels (channel)
         CROSS JOIN unnest(ARRAY['critical', 'high', 'normal']) AS urgencies (urgency)
         CROSS JOIN LATERAL (
               SELECT FROM delivery d
                WHERE d.channel = channels.channel AND d.urgency = urgencies.urgency AND d.due_at <= now()
                ORDER BY d.due_at LIMIT 15000) AS rows_due
         LIMIT 15000) AS counted
UNION ALL
SELECT 'bulk', count(*)
  FROM (SELECT FROM unnest(ARRAY['sms', 'email', 'push']) AS channels (channel)
         CROSS JOIN LATERAL (
               SELECT FROM delivery d
                WHERE d.channel = channels.channel AND d.urgency = 'bulk' AND d.due_at <= now()
                ORDER BY d.due_at LIMIT 30000) AS rows_due
         LIMIT 30000) AS counted;

-- The role is made by whoever runs the database (deploy/postgres/scaler-role.sql), before
-- this or after it: a program's own user makes no users.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'patient_notify_scaler') THEN
        GRANT SELECT ON scaler_due_deliveries TO patient_notify_scaler;
    END IF;
END
$$;
