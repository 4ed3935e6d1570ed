"""Every object against the schema of its kind, as an API server with strict validation."""

import json

from jsonschema import Draft7Validator

from project import ROOT
from render import where

# Kinds whose schema their project does not publish where it can be had; rules of our own
# look at them (redpanda.py). Kustomize and kind read their own files.
WITHOUT = {"cluster.redpanda.com/v1alpha2"}


def _validators():
    folder = ROOT / "tools" / "manifests"
    kubernetes = json.loads((folder / "kubernetes.json").read_text())
    found = {}
    for kind, name in kubernetes["kinds"].items():
        schema = {"$ref": f"#/definitions/{name}", "definitions": kubernetes["definitions"]}
        found[kind] = Draft7Validator(schema)
    for file in ("keda", "external_secrets"):
        for kind, schema in json.loads((folder / f"{file}.json").read_text())["resources"].items():
            found[kind] = Draft7Validator(schema)
    return found


VALIDATORS = _validators()


def check(manifests, _project):
    """Fields that a kind does not have, lack, or have with another type."""
    for one in manifests.objects:
        if one["apiVersion"] in WITHOUT:
            continue
        validator = VALIDATORS.get(f"{one['apiVersion']}/{one['kind']}")
        if validator is None:
            yield f"{where(one)}: no schema of {one['apiVersion']} is kept (scripts/manifests/vendor_schemas.py)"
            continue
        for error in sorted(validator.iter_errors(one), key=lambda error: error.json_path):
            yield f"{where(one)} {error.json_path}: {error.message[:300]}"
