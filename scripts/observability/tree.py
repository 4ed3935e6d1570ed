"""What there is to check: rules, their tests, pages, dashboards, and the measures that exist."""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Endings that a histogram's series have in classic buckets.
HISTOGRAM = ("_bucket", "_sum", "_count")


class Tree:
    """The repository, or a copy of it that a test has broken."""

    def __init__(self, root=ROOT):
        self.root = root
        self.home = root / "deploy" / "observability"
        self.pages = root / "docs" / "runbooks"

    def rule_files(self):
        return sorted((self.home / "rules").glob("*.yaml"))

    def test_files(self):
        return sorted((self.home / "tests").glob("*.test.yaml"))

    def rules(self):
        """Every rule, with the file that it stands in."""
        for path in self.rule_files():
            for group in yaml.safe_load(path.read_text())["groups"]:
                for rule in group["rules"]:
                    yield path.name, rule

    def alerts(self):
        return [(file, rule) for file, rule in self.rules() if "alert" in rule]

    def recorded(self):
        return {rule["record"] for _, rule in self.rules() if "record" in rule}

    def tests(self):
        for path in self.test_files():
            for test in yaml.safe_load(path.read_text())["tests"]:
                yield path.name, test

    def dashboards(self):
        for path in sorted((self.home / "dashboards").glob("*.json")):
            yield path.name, json.loads(path.read_text())

    def expressions(self):
        """Every expression of rules and dashboards, and where it stands."""
        for file, rule in self.rules():
            yield f"rules/{file}: {rule.get('alert', rule.get('record'))}", rule["expr"]
        for file, dashboard in self.dashboards():
            for panel in dashboard["panels"]:
                for target in panel.get("targets", []):
                    yield f"dashboards/{file}: {panel['title']}", target["expr"]

    def measures(self):
        """Labels by name of every measure that exists; `None`: they are not known."""
        known = {name: None for name in self.recorded()}
        foreign = yaml.safe_load((self.home / "foreign-measures.yaml").read_text())
        targets = foreign.pop("targets")
        for declared in foreign.values():
            for name, labels in declared.items():
                known[name] = {*labels, *targets, "exported_namespace"}
        for name, labels in self.own_measures().items():
            # A label of ours that a target has too comes under another name.
            renamed = {f"exported_{label}" if label in targets else label for label in labels}
            for ending in ("", *HISTOGRAM):
                known[name + ending] = {*renamed, *targets, "le"} if ending == "_bucket" else {*renamed, *targets}
        return known

    def own_measures(self):
        """Our measures, by the dictionary of docs/measures.md: rows `| `name` | … |`."""
        found = {}
        for line in (self.root / "docs" / "measures.md").read_text().splitlines():
            row = re.match(r"\| `(patient_notify_\w+)(?:\{([\w, ]*)\})?`", line)
            if row:
                found[row.group(1)] = set(re.findall(r"\w+", row.group(2) or ""))
        return found
