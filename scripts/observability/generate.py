"""Writes what is derived: Grafana's dashboards, and the operator's PrometheusRule.

    python3 scripts/observability/generate.py            writes the files
    python3 scripts/observability/generate.py --check    says which are not as they would be written
"""

import json
import pathlib
import sys

import flow
import work

HERE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "observability"

RULE_HEAD = """\
# Written by scripts/observability/generate.py from rules/{name}.yaml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: patient-notify-{name}
  labels:
    app.kubernetes.io/part-of: patient-notify
spec:
"""


def dashboards():
    """All dashboards by the name of their file."""
    all_of_them = [flow.overview(), work.workers(), work.providers()]
    all_of_them += [flow.consumer(name, topics) for name, topics in flow.CONSUMERS.items()]
    return {f"{one['uid'].removeprefix('pn-')}.json": one for one in all_of_them}


def rule_resources():
    """A PrometheusRule a file of rules, as text: the rules keep their comments."""
    for rules in sorted((HERE / "rules").glob("*.yaml")):
        lines = rules.read_text().splitlines()
        indented = "".join(f"  {line}\n" if line else "\n" for line in lines)
        yield f"prometheus-rules/{rules.name}", RULE_HEAD.format(name=rules.stem) + indented


def wanted():
    """Every derived file, relative to deploy/observability, and its text."""
    files = dict(rule_resources())
    for name, dashboard in dashboards().items():
        files[f"dashboards/{name}"] = json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
    return files


def stale(files):
    """What differs from what would be written, and what would not be written at all."""
    there = {str(path.relative_to(HERE)) for folder in ("dashboards", "prometheus-rules")
             for path in (HERE / folder).glob("*")}
    differing = [name for name, text in files.items()
                 if name not in there or (HERE / name).read_text() != text]
    return sorted(differing) + sorted(there - files.keys())


def main(arguments):
    files = wanted()
    if arguments == ["--check"]:
        names = stale(files)
        for name in names:
            print(f"deploy/observability/{name} is not what `generate.py` writes; run it", file=sys.stderr)
        return 1 if names else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 64
    for name, text in files.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)
    for name in stale(files):
        (HERE / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
