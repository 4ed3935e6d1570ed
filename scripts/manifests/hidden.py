"""Nothing secret stands in the repository, and what is referred to is there."""

import re

from render import containers, pod, variables_of, where

# Contents that are secret whatever key they stand under.
FORMS = {
    "a password in an address": re.compile(r"[a-z]+://[^/\s:@]+:[^/\s@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a key of a cloud": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a signing secret": re.compile(r"\bwhsec_[A-Za-z0-9+/=]{24,}"),
    "a token": re.compile(r"\beyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
}
# The address of a server on one's own machine, which has no password.
KIND_ONLY = {"patient-notify-keda-postgres"}


def texts(value, path=""):
    """Every string of an object, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value


def check(manifests, project):
    """All rules of this file."""
    for one in manifests.objects:
        if one["kind"] == "Secret" and not (manifests.name == "kind" and one["metadata"]["name"] in KIND_ONLY):
            yield f"{where(one)}: Secrets come from outside, by reference"
        for path, text in texts(one):
            for what, form in FORMS.items():
                # The commented example of config/default.toml is no secret.
                if form.search(text) and not path.startswith(".data.default"):
                    yield f"{where(one)} {path}: looks like {what}"
    for one in [*manifests.ours(), *manifests.of("Job")]:
        yield from literals(manifests, project, one)
        yield from mounted(manifests, one)


def literals(manifests, project, one):
    """Keys that are secret get their value from a file."""
    for container in containers(one):
        for name, value in variables_of(manifests, container).items():
            key = project.variables.get(name)
            if key in project.secret_keys and not name.endswith("_FILE") and value is not None:
                # The kind overlay's database has no password, and its URL nothing to hide.
                if not (manifests.name == "kind" and key == "postgres.url"):
                    yield f"{where(one)}, {container['name']}: {name} has a value: use {name}_FILE and a Secret"


def mounted(manifests, one):
    """Files that variables name lie in a volume; volumes' Secrets are declared; all mounts exist."""
    volumes = {volume["name"]: volume for volume in pod(one).get("volumes", [])}
    declared = {each["metadata"]["name"] for each in manifests.of("ExternalSecret")}
    for name, volume in volumes.items():
        secret = volume.get("secret", {}).get("secretName")
        if secret and declared and secret not in declared:
            yield f"{where(one)}: Secret {secret} of volume {name} is in no ExternalSecret"
        config = volume.get("configMap", {}).get("name")
        if config and not manifests.find("ConfigMap", config):
            yield f"{where(one)}: ConfigMap {config} of volume {name} is not there"
    for container in containers(one):
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        for path, name in mounts.items():
            if name not in volumes:
                yield f"{where(one)}, {container['name']}: volume {name} at {path} is not there"
        for name, value in variables_of(manifests, container).items():
            if name.endswith("_FILE") and value and value.startswith("/run/secrets/") \
                    and value.rsplit("/", 1)[0] not in mounts:
                yield f"{where(one)}, {container['name']}: {name} is {value}, and nothing is mounted there"
        for source in container.get("envFrom", []):
            config = source.get("configMapRef", {}).get("name")
            if config and not manifests.find("ConfigMap", config):
                yield f"{where(one)}, {container['name']}: ConfigMap {config} is not there"
