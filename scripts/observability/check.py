"""Checks deploy/observability and docs/runbooks; says what is wrong, and ends with 1 if anything is.

    python3 scripts/observability/check.py      promtool is named by PROMTOOL, or on PATH
"""

import os
import re
import subprocess
import sys
import tempfile

import yaml

import flow
from expressions import selectors
from tree import Tree

# What an operator finds on each page, in this order.
SECTIONS = ["Symptom", "What patients feel", "Look first", "Do", "Make sure", "Why it happens"]
NAMESPACE = "pat--notification--be"
# `app.kubernetes.io/name` of our deployments.
WORKLOADS = [
    "app", "consumer-test-result-notification", "consumer-notification", "consumer-notification-update",
    "wrk--notifications", "wrk--default", "wrk--batch-publisher", "cron", "scaler",
]
DEPLOYMENTS = {f"{NAMESPACE}--{name}--prod" for name in WORKLOADS}
# Grafana's bound.
UID_MAX = 40


def promtool(*arguments):
    """What promtool says when it is not content; empty otherwise."""
    program = os.environ.get("PROMTOOL", "promtool")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else (ended.stdout + ended.stderr).strip()


def rules_are_valid(tree):
    said = promtool("check", "rules", "--lint-fatal", *map(str, tree.rule_files()))
    return [said] if said else []


def rules_do_what_they_should(tree):
    said = promtool("test", "rules", *map(str, tree.test_files()))
    return [said] if said else []


def every_alert_tells_what_it_has_to(tree):
    problems = []
    for file, rule in tree.alerts():
        at = f"rules/{file}: {rule['alert']}"
        if rule.get("labels", {}).get("severity") not in ("page", "ticket"):
            problems.append(f"{at} has no severity (page or ticket)")
        notes = rule.get("annotations", {})
        problems += [f"{at} has no {key}" for key in ("summary", "description") if not notes.get(key)]
        if notes.get("runbook_url") != f"docs/runbooks/{rule['alert']}.md":
            problems.append(f"{at}: runbook_url is not docs/runbooks/{rule['alert']}.md")
    return problems


def every_alert_is_tested_firing_and_quiet(tree):
    seen = {}
    for _, test in tree.tests():
        for case in test.get("alert_rule_test", []):
            seen.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    problems = []
    for file, rule in tree.alerts():
        for fires, word in ((True, "fires"), (False, "stays quiet")):
            if fires not in seen.get(rule["alert"], set()):
                problems.append(f"rules/{file}: {rule['alert']} has no test in which it {word}")
    known = {rule["alert"] for _, rule in tree.alerts()}
    return problems + [f"tests: there is no alert {name}" for name in sorted(seen.keys() - known)]


def every_alert_can_fire(tree):
    """A factor of burn rates times a budget above 1 would be a share that nothing reaches."""
    budgets = {}
    for _, rule in tree.rules():
        if rule.get("record") == "patient_notify:objective:ratio":
            ratio = float(re.fullmatch(r"vector\((.+)\)", rule["expr"]).group(1))
            budgets.setdefault(rule["labels"]["objective"], []).append(1 - ratio)
    problems = []
    for file, rule in tree.alerts():
        objective = re.search(r'objective="(\w+)"', rule["expr"])
        if not objective:
            continue
        for factor in re.findall(r"([\d.]+) \* \(1 - patient_notify:objective:ratio\)", rule["expr"]):
            for budget in budgets.get(objective.group(1), [1]):
                if float(factor) * budget >= 1:
                    problems.append(f"rules/{file}: {rule['alert']}: {factor} x {budget:.2f} is never reached")
    return problems


def only_measures_that_exist_are_asked_for(tree):
    known = tree.measures()
    problems = []
    for at, expression in tree.expressions():
        for name, labels in selectors(expression):
            if name not in known:
                problems.append(f"{at}: there is no measure {name}")
            elif known[name] is not None:
                problems += [f"{at}: {name} has no label {label}" for label in labels if label not in known[name]]
    return problems


def every_expression_can_be_read(tree):
    """Dashboards too: as rules, with Grafana's variables filled in."""
    groups = []
    for number, (at, expression) in enumerate(tree.expressions()):
        for variable, value in (("$__rate_interval", "5m"), ("$__range", "6h")):
            expression = expression.replace(variable, value)
        groups.append({"name": f"{number} {at}", "rules": [{"record": "x", "expr": expression}]})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": groups}, file)
        file.flush()
        said = promtool("check", "rules", file.name)
    return [said] if said else []


def every_alert_has_its_page(tree):
    names = {rule["alert"] for _, rule in tree.alerts()}
    pages = {path.stem for path in tree.pages.glob("PatientNotify*.md")}
    problems = [f"docs/runbooks/{name}.md is missing" for name in sorted(names - pages)]
    problems += [f"docs/runbooks/{name}.md: there is no such alert" for name in sorted(pages - names)]
    index = (tree.pages / "README.md").read_text()
    problems += [f"docs/runbooks/README.md does not name {name}" for name in sorted(names) if f"({name}.md)" not in index]
    for name in sorted(names & pages):
        text = (tree.pages / f"{name}.md").read_text()
        problems += page_is_complete(name, text)
        linked = set(re.findall(r"\]\((PatientNotify\w+)\.md\)", text))
        problems += [f"docs/runbooks/{name}.md: there is no {other}.md" for other in sorted(linked - pages)]
    return problems


def page_is_complete(name, text):
    at = f"docs/runbooks/{name}.md"
    problems = []
    if not text.startswith(f"# {name}\n"):
        problems.append(f"{at} does not begin with its alert's name")
    if re.findall(r"^## (.+)$", text, re.M) != SECTIONS:
        problems.append(f"{at}: its sections are not {', '.join(SECTIONS)}")
    if f"kubectl -n {NAMESPACE} " not in text:
        problems.append(f"{at} has no kubectl command for {NAMESPACE}")
    for mentioned in set(re.findall(rf"{NAMESPACE}--[\w-]+", text)) - DEPLOYMENTS:
        problems.append(f"{at}: there is no deployment {mentioned}")
    return problems


def dashboards_can_be_loaded(tree):
    problems = []
    uids = {}
    for file, dashboard in tree.dashboards():
        at = f"dashboards/{file}"
        uid = dashboard["uid"]
        if not re.fullmatch(rf"[\w-]{{1,{UID_MAX}}}", uid):
            problems.append(f"{at}: Grafana takes no uid {uid}")
        if uid in uids:
            problems.append(f"{at}: {uids[uid]} has the uid {uid} too")
        uids[uid] = file
        ids = [panel["id"] for panel in dashboard["panels"]]
        if len(set(ids)) != len(ids):
            problems.append(f"{at}: two panels have the same id")
        problems += [f"{at}: {first} and {second} overlap" for first, second in overlapping(dashboard["panels"])]
    return problems


def overlapping(panels):
    def cells(panel):
        place = panel["gridPos"]
        return {(x, y) for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])}

    taken = {}
    for panel in panels:
        for cell in cells(panel):
            if cell in taken:
                yield taken[cell], panel["title"]
                break
            taken[cell] = panel["title"]


def bounds_are_said_alike(tree):
    """The bounds that dashboards draw are those of the rules."""
    recorded = {rule["labels"]["topic"]: float(re.fullmatch(r"vector\((.+)\)", rule["expr"]).group(1))
                for _, rule in tree.rules() if rule.get("record") == "patient_notify:oldest_age_objective:seconds"}
    drawn = {topic: limit for topics in flow.CONSUMERS.values() for topic, limit in topics.items()}
    return [] if recorded == drawn else [f"flow.py draws {drawn}, rules/flow.yaml says {recorded}"]


CHECKS = [
    rules_are_valid,
    every_expression_can_be_read,
    only_measures_that_exist_are_asked_for,
    every_alert_tells_what_it_has_to,
    every_alert_can_fire,
    every_alert_is_tested_firing_and_quiet,
    rules_do_what_they_should,
    every_alert_has_its_page,
    dashboards_can_be_loaded,
    bounds_are_said_alike,
]


def main():
    tree = Tree()
    problems = [f"{check.__name__}: {problem}" for check in CHECKS for problem in check(tree)]
    for problem in problems:
        print(f"observability: {problem}", file=sys.stderr)
    if not problems:
        alerts, dashboards = len(tree.alerts()), len(list(tree.dashboards()))
        print(f"observability: {alerts} alerts with tests and pages, {dashboards} dashboards")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
