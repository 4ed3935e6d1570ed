#!/usr/bin/env python3
"""Checks what deploy/ renders to, without a cluster (`make lint-manifests`).

Exit code 1, with a line a fault, when something is wrong.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import availability
import hidden
import names
import redpanda
import scaling
import schemas
import workloads
from project import Project
from render import SETS, Manifests, render

CHECKS = [names, workloads, availability, hidden, scaling, redpanda, schemas]


def faults(manifests, project):
    """Every fault of a set, in words."""
    for check in CHECKS:
        yield from check.check(manifests, project)


def rendered_sets():
    """All sets; what several have in common is rendered once."""
    folders = sorted({folder for parts in SETS.values() for folder in parts})
    with ThreadPoolExecutor() as pool:
        rendered = dict(zip(folders, pool.map(render, folders)))
    return [Manifests(name, [one for folder in parts for one in rendered[folder]]) for name, parts in SETS.items()]


def main():
    project, sets = Project(), rendered_sets()
    found = {fault: manifests.name for manifests in reversed(sets) for fault in faults(manifests, project)}
    for fault, name in reversed(found.items()):
        print(f"lint-manifests: {name}: {fault}", file=sys.stderr)
    if found:
        print(f"lint-manifests: {len(found)} faults", file=sys.stderr)
        return 1
    print(f"lint-manifests: {len(sets)} sets, {sum(len(one.objects) for one in sets)} objects, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
