"""Renders deploy/ with kubectl's kustomize, and what a rendered set is made of."""

import os
import subprocess
from pathlib import Path

import yaml

from project import ROOT

# What is applied together, by its name: folders of deploy/. Each part has to fit the others.
SETS = {
    "prod with simple": ["k8s/overlays/prod", "keda/overlays/simple", "redpanda"],
    "prod with rate-aware": ["k8s/overlays/prod", "keda/overlays/rate-aware"],
    "prod with external": ["k8s/overlays/prod", "keda/overlays/external"],
    "kind": ["k8s/overlays/kind", "k8s/overlays/kind/keda"],
}


def kubectl():
    """The pinned kubectl of the tools folder; what is on PATH may be of another age."""
    pins = dict(line.split("=", 1) for line in (ROOT / "tools/versions.env").read_text().splitlines()
                if "=" in line and not line.startswith("#"))
    folder = os.environ.get("TOOLS_DIR")
    if not folder:
        raise SystemExit("lint-manifests: TOOLS_DIR is not set: run it by `make lint-manifests`")
    return Path(folder) / f"kubectl-{pins['KUBECTL_VERSION']}" / "bin" / "kubectl"


def render(folder):
    """The objects of a kustomization below deploy/."""
    told = subprocess.run([kubectl(), "kustomize", ROOT / "deploy" / folder], capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(f"lint-manifests: deploy/{folder} cannot be rendered:\n{told.stderr}")
    # The loader in C takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(told.stdout, Loader=loader) if one]


class Manifests:
    """A set of objects, found by kind and name."""

    def __init__(self, name, objects):
        self.name = name
        self.objects = objects

    def of(self, *kinds):
        """Objects of these kinds, in the order in which they are applied."""
        return [one for one in self.objects if one["kind"] in kinds]

    def find(self, kind, name):
        """The object of that kind and name, or None."""
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def ours(self):
        """Deployments that run this program: what the promises are made for."""
        return [one for one in self.of("Deployment") if part_of_us(one)]


def part_of_us(one):
    """Does it carry the label of everything of ours?"""
    return one["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "patient-notify"


def pod(one):
    """The pod that a workload makes."""
    return one["spec"]["template"]["spec"]


def containers(one):
    """All containers of a workload's pod, those that run first too."""
    return pod(one).get("initContainers", []) + pod(one)["containers"]


def where(one, *more):
    """How a fault names its place."""
    return " ".join([f"{one['kind']} {one['metadata']['name']}", *more])


def selects(selector, labels):
    """Does a label selector take these labels?"""
    if not all(labels.get(key) == value for key, value in (selector or {}).get("matchLabels", {}).items()):
        return False
    for one in (selector or {}).get("matchExpressions", []):
        value, values = labels.get(one["key"]), one.get("values", [])
        fits = {"In": value in values, "NotIn": value not in values,
                "Exists": value is not None, "DoesNotExist": value is None}
        if not fits[one["operator"]]:
            return False
    return True


def variables_of(manifests, container):
    """A container's variables with their values; a reference's value is None."""
    found = {}
    for source in container.get("envFrom", []):
        config = manifests.find("ConfigMap", source.get("configMapRef", {}).get("name"))
        found |= (config or {}).get("data", {})
    return found | {one["name"]: one.get("value") for one in container.get("env", [])}
