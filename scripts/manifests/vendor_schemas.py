#!/usr/bin/env python3
"""Makes tools/manifests/*.json from the modules of those projects, whose sums Go checks.

    scripts/manifests/vendor_schemas.py    (needs go and the network; run it for another version)

What `make lint-manifests` reads is kept in the repository, so that a check needs no network and
gives the same answer everywhere: of Kubernetes the kinds that deploy/ uses with all that they
are made of, of KEDA its custom resources and what it says of its own scalers, and
ExternalSecret. Descriptions are
left out. Objects refuse fields that they do not know, as an API server does with strict
validation.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tools" / "manifests"
KINDS = {
    ("", "v1", "ConfigMap"), ("", "v1", "Namespace"), ("", "v1", "Secret"), ("", "v1", "Service"),
    ("", "v1", "ServiceAccount"), ("apps", "v1", "Deployment"), ("apps", "v1", "StatefulSet"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"), ("batch", "v1", "Job"),
    ("networking.k8s.io", "v1", "NetworkPolicy"), ("policy", "v1", "PodDisruptionBudget"),
    ("scheduling.k8s.io", "v1", "PriorityClass"),
}
SCALERS = {"kafka", "postgresql", "prometheus", "external", "external-push"}
# Fields that say nothing to a validator, or nothing that it knows.
DROPPED = {"description", "x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy",
           "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
           "x-kubernetes-unions", "x-kubernetes-validations", "format", "default"}
PREFIX = "#/definitions/"


def module(path, version):
    """The folder of a module, downloaded and checked by Go."""
    with tempfile.TemporaryDirectory() as empty:
        told = subprocess.run(["go", "mod", "download", "-json", f"{path}@v{version}"], cwd=empty, check=True,
                              capture_output=True, env={**os.environ, "GOFLAGS": "-mod=mod"})
    return Path(json.loads(told.stdout)["Dir"])


def strict(schema):
    """The schema without words, refusing what it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            # Names of fields, which may be called `description` or `format`.
            kept[key] = {name: strict(one) for name, one in value.items()}
        elif key not in DROPPED or not isinstance(value, (str, list, dict, bool, int)):
            kept[key] = strict(value)
    if "properties" in kept and "additionalProperties" not in kept \
            and not kept.pop("x-kubernetes-preserve-unknown-fields", False):
        kept["additionalProperties"] = False
    return kept


def references(schema):
    """Names of definitions that a schema uses."""
    if isinstance(schema, list):
        return set().union(*map(references, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].removeprefix(PREFIX)} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(references, schema.values()))


def kubernetes(version):
    """Our kinds, and every definition that they reach."""
    swagger = json.loads((module("k8s.io/kubernetes", version) / "api/openapi-spec/swagger.json").read_text())
    definitions = swagger["definitions"]
    kinds = {}
    for name, definition in definitions.items():
        for gvk in definition.get("x-kubernetes-group-version-kind", []):
            key = (gvk["group"], gvk["version"], gvk["kind"])
            if key in KINDS:
                kinds["/".join(filter(None, key[:2])) + "/" + key[2]] = name
    wanted, kept = set(kinds.values()), {}
    while wanted:
        name = wanted.pop()
        definition = dict(definitions[name])
        definition.pop("x-kubernetes-group-version-kind", None)
        kept[name] = strict(definition)
        wanted |= references(kept[name]) - kept.keys()
    # Written as text or as a number.
    kept["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    # Left empty by every client; an API server fills it in.
    kept["io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"] = {"type": "object"}
    missing = {"/".join(filter(None, key[:2])) + "/" + key[2] for key in KINDS} - kinds.keys()
    assert not missing, f"Kubernetes {version} has no {missing}"
    return {"version": version, "kinds": dict(sorted(kinds.items())), "definitions": dict(sorted(kept.items()))}


def custom_resource(file):
    """Schemas of a CustomResourceDefinition's versions that are served, by version and kind."""
    crd = yaml.safe_load(file.read_text())
    resources = {}
    for one in crd["spec"]["versions"]:
        if one["served"]:
            schema = strict(one["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            resources[f"{crd['spec']['group']}/{one['name']}/{crd['spec']['names']['kind']}"] = schema
    return resources


def external_secrets(version):
    """ExternalSecret."""
    folder = module("github.com/external-secrets/external-secrets", version) / "config/crds/bases"
    return {"version": version,
            "resources": custom_resource(folder / "external-secrets.io_externalsecrets.yaml")}


def keda(version):
    """ScaledObject and TriggerAuthentication, and KEDA's own schema of the scalers that we use."""
    folder = module("github.com/kedacore/keda/v2", version)
    resources = {}
    for file in ("scaledobjects", "triggerauthentications"):
        resources |= custom_resource(folder / f"config/crd/bases/keda.sh_{file}.yaml")
    scalers = json.loads((folder / "schema/generated/scalers-schema.json").read_text())["scalers"]
    return {"version": version, "resources": resources,
            "scalers": {one["type"]: one["parameters"] for one in scalers if one["type"] in SCALERS}}


def main():
    pins = dict(line.split("=", 1) for line in (ROOT / "tools/versions.env").read_text().splitlines()
                if "=" in line and not line.startswith("#"))
    OUT.mkdir(exist_ok=True)
    for name, make in (("kubernetes", kubernetes), ("keda", keda), ("external_secrets", external_secrets)):
        made = make(pins[f"{name.upper()}_VERSION"])
        text = json.dumps(made, separators=(",", ":"), sort_keys=False)
        # A definition a line: a change of version can be read as a difference.
        (OUT / f"{name}.json").write_text(text.replace('},"', '},\n"') + "\n")
        print(f"tools/manifests/{name}.json: {len(text) // 1024} KiB, version {made['version']}")


if __name__ == "__main__":
    main()
