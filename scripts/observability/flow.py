"""The dashboards of what flows: the overview, and one a consumer.

Their uids never change: links and bookmarks hold on to them.
"""

from grafana import BAD, GOOD, WARN, dashboard, figure, firing, query, row, rows_of_states, series
from promql import ENDS, quantile, rate

# Consumers, the topics that each reads, and for how long a record of them may wait (s): the
# figures of rules/flow.yaml, which check.py compares.
CONSUMERS = {
    "consumer-test-result-notification": {"pat.test-results.v1": 30},
    "consumer-notification": {"pat.notifications.v1": 60, "pat.notifications-bulk.v1": 43200},
    "consumer-notification-update": {"pat.notification-updates.v1": 300},
}


def objectives():
    """The two promises, over the time that is shown and as burning budgets."""
    accepted = "patient_notify_accept_to_provider_duration_seconds"
    critical = f"""
        sum(increase({accepted}_bucket{{urgency="critical", le=~"10|10.0"}}[$__range]))
          / sum(increase({accepted}_count{{urgency="critical"}}[$__range]))"""
    arrived = f"""
        sum by (channel) (increase({ENDS}{{end="delivered"}}[$__range]))
          / sum by (channel) (increase({ENDS}[$__range]))"""
    burn = "patient_notify:errors:ratio_rate1h / on (objective, channel) (1 - patient_notify:objective:ratio)"
    return [
        row("What patients feel"),
        figure(
            "Critical within 10 s",
            "Share of critical messages that a provider was handed within 10 s. Promised: 99 %.",
            query(critical, instant=True),
            unit="percentunit", base=BAD, steps=[(0.99, GOOD)], decimals=2, width=5,
        ),
        figure(
            "Delivered",
            "Share of the messages that ended on a channel and arrived. Promised: 95 % (e-mail 97 %).",
            query(arrived, "{{channel}}", instant=True),
            unit="percentunit", base=BAD, steps=[(0.95, GOOD)], decimals=1, width=8,
        ),
        figure(
            "Oldest record",
            "Age of the oldest record that a consumer has not committed; campaigns not counted.",
            query('max(topic:patient_notify_consumer_lag_seconds:max{topic!="pat.notifications-bulk.v1"})'),
            unit="s", steps=[(30, WARN), (60, BAD)], width=5,
        ),
        figure(
            "Due for longest",
            "For how long the oldest row of any queue but bulk has been due.",
            query('max(queue:patient_notify_due_oldest_age_seconds:max{urgency!="bulk"})'),
            unit="s", steps=[(120, WARN), (300, BAD)], width=6,
        ),
        series(
            "Budgets burn",
            "How many times faster than allowed, over the last hour. Above 14.4 somebody is paged.",
            query(burn, "{{objective}} {{channel}}"),
            steps=[(1, WARN), (14.4, BAD)],
        ),
        series(
            "Accepted → provider, p99",
            "From the source record's timestamp until a provider has the message.",
            query("urgency:patient_notify_accept_to_provider_duration_seconds:p99_5m", "{{urgency}}"),
            unit="s", steps=[(10, BAD)],
        ),
        firing("Alerts", "Each has a page in docs/runbooks.", height=8),
    ]


def overview():
    """One look for somebody who was paged."""
    return dashboard(
        "pn-overview",
        "patient-notify: overview",
        "What patients feel, and where to look next.",
        objectives() + [
            row("Lag"),
            series(
                "Age of the oldest record",
                "Per topic; campaigns wait on purpose.",
                query("topic:patient_notify_consumer_lag_seconds:max", "{{topic}}"), unit="s",
            ),
            series(
                "Records that wait",
                "Not committed yet, in flight included.",
                query("topic:patient_notify_consumer_lag_messages:sum", "{{topic}}"),
            ),
            series(
                "Time to drain",
                "Backlog / (what the pods can do - what arrives); no line where it never ends.",
                query("topic:patient_notify_consumer_drain_seconds:max < +Inf", "{{topic}}"), unit="s",
            ),
            row("Delivery"),
            series(
                "Attempts by outcome",
                "",
                query("sum by (outcome) (channel:patient_notify_deliveries:rate5m)", "{{outcome}}"),
                unit="cps", stacked=True,
            ),
            series(
                "Circuits",
                "1: the provider does not answer and is left alone.",
                query("max by (channel) (patient_notify_circuit_open)", "{{channel}}"), steps=[(1, BAD)],
            ),
            series(
                "Dead letters",
                "Records an hour that could not be processed.",
                query("sum by (topic, reason) (increase(patient_notify_dead_letters_total[1h]))",
                      "{{topic}} {{reason}}"),
            ),
            row("Who is there"),
            series(
                "Pods",
                "Available pods a deployment.",
                query("workload:replicas_available:max", "{{workload}}"), width=12,
            ),
            series(
                "Pods that are wanted and not there",
                "",
                query("workload:replicas_wanted:max - on (workload) group_left () workload:replicas_available:max",
                      "{{workload}}"),
                width=12, floor=None,
            ),
        ],
    )


def consumer(name, topics):
    """One consumer: its topics, its pods, and what scales it."""
    group = f'group="{name}"'
    pods = f'workload="{name}"'
    urgent, limit = next(iter(topics.items()))
    panels = [
        row("Topics"),
        series(
            "Age of the oldest record",
            f"A page when {urgent} is above {limit} s for 5 minutes.",
            query(f"topic:patient_notify_consumer_lag_seconds:max{{{group}}}", "{{topic}}"),
            unit="s", steps=[(limit, BAD)],
        ),
        series(
            "Records that wait",
            "Not committed yet, in flight included.",
            query(f"topic:patient_notify_consumer_lag_messages:sum{{{group}}}", "{{topic}}"),
        ),
        series(
            "Arrival against capacity",
            "Capacity is what the pods that are there could process if they were always busy.",
            query(f"sum (topic:patient_notify_consumer_arrival_rate:sum{{{group}}})", "arrives"),
            query(f"workload:patient_notify_processor_true_rate:sum{{{pods}}}", "capacity"),
            query(rate("patient_notify_records_total", where=pods), "processed"),
            unit="cps",
        ),
    ]
    panels += [
        rows_of_states(
            f"{topic}: age by partition",
            "A row of another colour is a partition that stands still while the others move.",
            query(f'partition:patient_notify_consumer_lag_seconds:max{{{group}, topic="{topic}"}}', "{{partition}}"),
            steps=[(limit / 2, WARN), (limit, BAD)],
        )
        for topic, limit in topics.items()
    ]
    panels += [
        series(
            "Time to drain",
            "No line where it never ends.",
            query(f"topic:patient_notify_consumer_drain_seconds:max{{{group}}} < +Inf", "{{topic}}"), unit="s",
        ),
        series(
            "Stalled partitions",
            "Records wait and nothing is committed.",
            query(f"sum by (topic) (max by (topic, partition) (patient_notify_consumer_partition_stalled{{{group}}}))",
                  "{{topic}}"),
            steps=[(1, BAD)],
        ),
        series(
            "Retention headroom",
            "How long until the broker deletes the oldest record that was not read.",
            query(f"min by (topic) (partition:patient_notify_consumer_retention_headroom_seconds:min{{{group}}})",
                  "{{topic}}"),
            unit="s",
        ),
        row("Pods"),
        series(
            "Busy",
            "Share of the time in which a pod had work. All at 1: more pods help.",
            query(f"patient_notify_processor_busy_ratio{{{pods}}}", "{{pod}}"), unit="percentunit",
        ),
        series(
            "Partitions in hand",
            "",
            query(f"sum by (pod, state) (patient_notify_partitions{{{pods}}})", "{{pod}} {{state}}"),
        ),
        series(
            "Rebalances",
            "Of one pod within ten minutes; above 4 they do not come to rest.",
            query(f'max(increase(patient_notify_rebalances_total{{{pods}, kind="assigned"}}[10m]))', "assigned"),
            query(quantile(0.99, "patient_notify_rebalance_pause_duration_seconds", where=pods), "pause, p99 (s)"),
            steps=[(4, WARN)],
        ),
        series(
            "Records by outcome", "", query(rate("patient_notify_records_total", "outcome", pods), "{{outcome}}"),
            unit="cps", stacked=True,
        ),
        updates(pods) if name.endswith("-update") else series(
            "In flight and waiting",
            "Deliveries at providers, and records in queues of pods.",
            query(f"sum(patient_notify_in_flight{{{pods}}})", "at providers"),
            query(f"sum(patient_notify_queue_records{{{pods}}})", "in queues"),
        ),
        series(
            "Database, p99 by statement",
            "",
            query(quantile(0.99, "patient_notify_statement_duration_seconds", "statement", pods), "{{statement}}"),
            unit="s",
        ),
        series(
            "Dead letters and the breaker",
            "Above 0.5: a pod has stopped, since nearly all of its records are rejected.",
            query(rate("patient_notify_dead_letters_total", "reason", pods), "{{reason}}/s"),
            query(f"max(patient_notify_breaker_open{{{pods}}})", "breaker open"),
        ),
        series(
            "Ignored",
            "Records that came to nothing, by reason: duplicates, no consent, expired.",
            query(rate("patient_notify_ignored_total", "reason", pods), "{{reason}}"), unit="cps", stacked=True,
        ),
        series(
            "What was away", "", query(rate("patient_notify_unavailable_total", "dependency", pods), "{{dependency}}"),
            unit="cps",
        ),
        row("Scaling"),
        *scaling(name),
    ]
    return dashboard(
        f"pn-{name}", f"patient-notify: {name}", f"Topics, pods and scaling of {name}.", panels,
    )


def updates(pods):
    """What the updates of this consumer came to."""
    return series(
        "Updates by what they came to", "", query(rate("patient_notify_updates_total", "kind, result", pods),
                                                  "{{kind}} {{result}}"),
        unit="cps", stacked=True,
    )


def scaling(name):
    """Replicas of a deployment and who decides on them."""
    deployment = f'deployment="{name}"'
    return [
        series(
            "Replicas",
            "`scaler` is what our scaler would choose, also where KEDA's kafka trigger decides.",
            query(f'workload:replicas_available:max{{workload="{name}"}}', "available"),
            query(f'workload:replicas_wanted:max{{workload="{name}"}}', "wanted"),
            query(f'workload:replicas_max:max{{workload="{name}"}}', "bound"),
            query(f"max(patient_notify_scaler_desired_replicas{{{deployment}}})", "scaler"),
        ),
        series(
            "Why",
            "What decides the number of replicas.",
            query(f"max by (reason) (patient_notify_scaler_decision_reason{{{deployment}}})", "{{reason}}"),
        ),
        series(
            "What does not work",
            "KEDA's errors in five minutes; 1 where our scaler's reading is stale.",
            query(f'sum(increase(keda_scaled_object_errors_total{{scaledObject="{name}"}}[5m]))', "KEDA's errors"),
            query(f"max(patient_notify_scaler_stale{{{deployment}}})", "stale"),
        ),
        series(
            "What KEDA tells the autoscaler",
            "The value of each trigger.",
            query(f'max by (metric) (keda_scaler_metrics_value{{scaledObject="{name}"}})', "{{metric}}"),
        ),
    ]
