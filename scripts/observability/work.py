"""The dashboards of workers, with cron, and of providers."""

from grafana import BAD, GOOD, WARN, dashboard, figure, query, row, series
from promql import ENDS, quantile, rate

WORKERS = 'workload=~"wrk--.+|cron"'


def workers():
    """What was put off, and who takes it up again."""
    return dashboard(
        "pn-workers",
        "patient-notify: workers and cron",
        "Queues in the database: what is due, for how long, and what came of it.",
        [
            row("Due"),
            series(
                "Due rows",
                "By queue and urgency; at most 10,000 of each are counted.",
                query("queue:patient_notify_due_depth:max", "{{queue}} {{urgency}}"), width=12,
            ),
            series(
                "For how long the oldest has been due",
                "Bounds: critical 30 s, high 2 min, normal 5 min, bulk 6 h, other queues 10 min.",
                query("queue:patient_notify_due_oldest_age_seconds:max", "{{queue}} {{urgency}}"),
                unit="s", width=12,
            ),
            row("wrk--notifications: retries, releases, escalation"),
            series(
                "Due deliveries taken", "", query(rate("patient_notify_due_claimed_total", "workload"), "{{workload}}"),
                unit="cps",
            ),
            series(
                "Next channels begun",
                "Because evidence was overdue: not sent, not delivered, not read.",
                query(rate("patient_notify_escalated_total", "channel, reason"), "{{channel}} {{reason}}"), unit="cps",
            ),
            series(
                "Leases lost and outcomes unknown",
                "In an hour. A lease that is lost means a process that died or hung.",
                query("sum(increase(patient_notify_leases_lost_total[1h]))", "leases lost"),
                query("sum by (channel) (increase(patient_notify_outcomes_unknown_total[1h]))", "unknown: {{channel}}"),
            ),
            row("wrk--default and wrk--batch-publisher"),
            series(
                "Status changes published", "", query(rate("patient_notify_outbox_published_total"), "changes"),
                unit="cps",
            ),
            series(
                "Jobs of the general queue", "", query(rate("patient_notify_jobs_total", "kind, end"), "{{kind}} {{end}}"),
                unit="cps",
            ),
            series(
                "Callbacks to other backends", "",
                query(rate("patient_notify_callbacks_total", "caller, result"), "{{caller}} {{result}}"), unit="cps",
            ),
            series(
                "Batches: recipients published", "", query(rate("patient_notify_batch_published_total"), "recipients"),
                unit="cps",
            ),
            series(
                "Database, p99 by statement", "",
                query(quantile(0.99, "patient_notify_statement_duration_seconds", "statement", WORKERS),
                      "{{statement}}"),
                unit="s",
            ),
            series(
                "What was away", "",
                query(rate("patient_notify_unavailable_total", "dependency", WORKERS), "{{dependency}}"), unit="cps",
            ),
            row("cron"),
            series(
                "Since a job was last done",
                "A ticket: stale after 20 min, retention after 28 h, digest after a week and 6 h.",
                query("job:patient_notify_cron_done_age_seconds:max", "{{exported_job}}"), unit="s",
            ),
            series(
                "Ticks by their end", "",
                query("sum by (exported_job, end) (increase(patient_notify_cron_ticks_total[1h]))",
                      "{{exported_job}} {{end}}"),
            ),
            series(
                "Reminders", "Due reminders of appointments by what came of them.",
                query(rate("patient_notify_reminders_total", "result"), "{{result}}"), unit="cps",
            ),
            series(
                "How long a tick takes, p99", "",
                query(quantile(0.99, "patient_notify_cron_tick_duration_seconds", "exported_job"), "{{exported_job}}"),
                unit="s", width=12,
            ),
            series(
                "What the last tick counted",
                "`stale` counts rows that nobody takes: above 0 a worker is missing.",
                query("max by (exported_job, what) (patient_notify_cron_counted)", "{{exported_job}} {{what}}"),
                width=12,
            ),
        ],
    )


def providers():
    """How providers do, and what comes back from them."""
    call = "patient_notify_provider_call_duration_seconds"
    lost = f"""sum by (channel) (increase({ENDS}{{end!="delivered"}}[1h]))
        / sum by (channel) (increase({ENDS}[1h]))"""
    return dashboard(
        "pn-providers",
        "patient-notify: providers",
        "Calls, their outcomes, circuits, and what receipts say.",
        [
            row("Now"),
            figure(
                "Circuits",
                "Open: the provider does not answer and is left alone, probed every 1 to 30 s.",
                query("max by (channel) (patient_notify_circuit_open)", "{{channel}}"), steps=[(1, BAD)], width=8,
            ),
            figure(
                "Not arrived, last hour", "Of the messages that ended on a channel.",
                query(lost, "{{channel}}"), unit="percentunit", steps=[(0.03, WARN), (0.05, BAD)], decimals=1, width=8,
            ),
            figure(
                "At providers now", "Deliveries that a provider is being called for.",
                query("sum(patient_notify_in_flight)"), width=8,
            ),
            row("Calls"),
            series(
                "Calls by outcome", "",
                query(rate(f"{call}_count", "channel, outcome"), "{{channel}} {{outcome}}"), unit="cps",
            ),
            series("Calls, p50", "", query(quantile(0.5, call, "channel"), "{{channel}}"), unit="s"),
            series(
                "Calls, p99", "", query("channel:patient_notify_provider_call_duration_seconds:p99_5m", "{{channel}}"),
                unit="s",
            ),
            row("What became of messages"),
            series(
                "Attempts by outcome", "",
                query("channel:patient_notify_deliveries:rate5m", "{{channel}} {{outcome}}"), unit="cps",
            ),
            series(
                "Ends", "What a delivery came to for good; late receipts count when they come.",
                query(rate(ENDS, "channel, end"), "{{channel}} {{end}}"), unit="cps",
            ),
            series(
                "Not delivered: burning budgets",
                "How many times faster than allowed, over an hour. Above 14.4 somebody is paged.",
                query("""patient_notify:errors:ratio_rate1h{objective="delivered"}
                    / on (objective, channel) (1 - patient_notify:objective:ratio)""", "{{channel}}"),
                steps=[(1, WARN), (14.4, BAD)],
            ),
            row("What comes back"),
            series(
                "Webhooks", "Callbacks of providers by what came of them.",
                query(rate("patient_notify_webhook_requests_total", "provider, result"), "{{provider}} {{result}}"),
                unit="cps",
            ),
            series(
                "Receipts and readings", "", query(rate("patient_notify_updates_total", "kind, result"),
                                                   "{{kind}} {{result}}"),
                unit="cps",
            ),
            series(
                "Outcomes unknown", "In an hour.",
                query("sum by (channel) (increase(patient_notify_outcomes_unknown_total[1h]))", "{{channel}}"),
            ),
            series(
                "Accepted → provider, p99 by purpose", "",
                query(quantile(0.99, "patient_notify_accept_to_provider_duration_seconds", "purpose"), "{{purpose}}"),
                unit="s", width=12,
            ),
            series(
                "Codes that prove an address", "",
                query(rate("patient_notify_verifications_total", "channel, result"), "{{channel}} {{result}}"),
                unit="cps", width=12,
            ),
        ],
    )
