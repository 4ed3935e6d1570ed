-- The role that KEDA reads due rows with. Run once by the database's administrator, in
-- patient-notify's database; again changes nothing. It may select from one view, which shows
-- counts. Give it a password with psql's \password patient_notify_scaler, which sends no plain
-- text and leaves none in a log, and put the connection URL into the vault as
-- patient-notify/keda-postgres (deploy/k8s/overlays/prod/external-secrets.yaml).

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'patient_notify_scaler') THEN
        CREATE ROLE patient_notify_scaler LOGIN CONNECTION LIMIT 5;
    END IF;
    IF to_regclass('scaler_due_deliveries') IS NOT NULL THEN
        GRANT SELECT ON scaler_due_deliveries TO patient_notify_scaler;
    END IF;
END
$$;

ALTER ROLE patient_notify_scaler SET default_transaction_read_only = on;
ALTER ROLE patient_notify_scaler SET statement_timeout = '3s';
