#!/usr/bin/env python3
"""Checks what deploy/ renders to, without a cluster (`make lint-manifests`).

Exit code 1, with a line a fault, when something is wrong.
"""

import sys

import availability
import hidden
import names
import redpanda
import scaling
import schemas

import workloads
from project import Project
from render import SETS, Manifests, render

CHECKS = [schemas, names, workloads, availability, hidden, scaling, redpanda]

def faults(manifests, project):
    """Every fault of a set, in words."""
    for check in CHECKS:
        yield from check.check(manifests, project)

def main():
    project, failed, rendered, told = Project(), 0, {}, set()
    for name, folders in SETS.items():
        for folder in folders:
            rendered.setdefault(folder, render(folder))
        manifests = Manifests(name, [one for folder in folders for one in rendered[folder]])
        for fault in faults(manifests, project):
            failed += 1
            if fault not in told:
                print(f"lint-manifests: {name}: {fault}", file=sys.stderr)
            told.add(fault)
    objects = sum(map(len, rendered.values()))
    if failed:
        print(f"lint-manifests: {len(told)} faults in {objects} objects", file=sys.stderr)
        return 1
    print(f"lint-manifests: {objects} objects of {len(rendered)} kustomizations are sound")
    return 0

if __name__ == "__main__":
    sys.exit(main())
