"""What every pod has: probes, bounds, rights, images that are pinned, an orderly end."""

import re

from render import containers, pod, variables_of, where

PROBES = {"startupProbe": "/health/live", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"}
# What the process needs to say what still ran, after its own time-out.
GRACE_SPARE_S = 5
VERSIONED = re.compile(r"^[^:@]+(/[^:@]+)*:(v?\d+\.\d+(\.\d+)?([-.+][\w.]+)?)(@sha256:[0-9a-f]{64})?$")
# Built here and loaded into a cluster of one's own.
LOCAL = "patient-notify:dev"


def check(manifests, project):
    """All rules of this file."""
    for one in manifests.of("Deployment", "StatefulSet", "Job"):
        yield from images(manifests, one)
    for one in [*manifests.ours(), *manifests.of("Job")]:
        yield from rights(one)
        yield from resources(one)
        yield from program(manifests, project, one)
    for one in manifests.ours():
        yield from probes(project, one)
        yield from end(project, one)


def images(manifests, one):
    """A version, never what is newest today."""
    for container in containers(one):
        image = container.get("image", "")
        if image == LOCAL and manifests.name == "kind":
            continue
        if not VERSIONED.match(image):
            yield f"{where(one)}, {container['name']}: image {image} is not pinned to a version"


def probes(project, one):
    """The three probes, at the paths and the port that the program serves."""
    (container,) = [each for each in pod(one)["containers"] if each["name"] == "patient-notify"]
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for probe, path in PROBES.items():
        get = container.get(probe, {}).get("httpGet")
        if not get:
            yield f"{where(one)}: {probe} is missing"
            continue
        if path not in project.probe_paths:
            yield f"{where(one)}: {probe}: the program serves no {path} (src/telemetry.rs)"
        if get["path"] != path:
            yield f"{where(one)}: {probe} asks for {get['path']}, and what it means is {path} (src/health.rs)"
        if ports.get(get["port"], get["port"]) != ports.get("probes"):
            yield f"{where(one)}: {probe} asks port {get['port']}, which is not that of probes"


def program(manifests, project, one):
    """A subcommand that there is, variables that are keys, ports that are listened on."""
    for container in containers(one):
        args = container.get("args", [])
        if not args or args[0] not in project.subcommands:
            yield f"{where(one)}, {container['name']}: `patient-notify {' '.join(args)}` is no subcommand"
        for name, value in variables_of(manifests, container).items():
            if name not in project.variables:
                yield f"{where(one)}, {container['name']}: {name} sets no key of config/default.toml"
            key = project.variables.get(name, "")
            if key in project.secret_keys and not name.endswith("_FILE") and value and "@" in value \
                    and re.search(r"//[^/@:]+:[^/@]+@", value):
                yield f"{where(one)}, {container['name']}: {name} has a password in it"
        listening = {value.rsplit(":", 1)[-1] for name, value in variables_of(manifests, container).items()
                     if name.endswith("__LISTEN") and value}
        for port in container.get("ports", []):
            if str(port["containerPort"]) not in listening:
                yield f"{where(one)}, {container['name']}: nothing listens on {port['containerPort']}"


def end(project, one):
    """The pod outlives the program's own stop, with what stands before it."""
    pre_stop = [container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                for container in pod(one)["containers"]]
    needed = project.config["shutdown"]["timeout_ms"] / 1000 + max(pre_stop) + GRACE_SPARE_S
    grace = pod(one).get("terminationGracePeriodSeconds", 30)
    if grace < needed:
        yield (f"{where(one)}: terminationGracePeriodSeconds {grace}, and shutdown.timeout_ms, preStop and "
               f"{GRACE_SPARE_S} s to spare need {needed:g}: a drain would be cut short")


def resources(one):
    """Requests, and a bound of memory."""
    for container in containers(one):
        given = container.get("resources", {})
        if not {"cpu", "memory"} <= given.get("requests", {}).keys() or "memory" not in given.get("limits", {}):
            yield f"{where(one)}, {container['name']}: requests of cpu and memory and a limit of memory are needed"


def rights(one):
    """The restricted profile, a root that cannot be written, no token of the cluster."""
    spec = pod(one)
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{where(one)}: automountServiceAccountToken is not false: nothing of ours calls the API server"
    if spec.get("serviceAccountName") in (None, "default"):
        yield f"{where(one)}: serviceAccountName is missing"
    if spec.get("enableServiceLinks") is not False:
        yield f"{where(one)}: enableServiceLinks is not false: foreign variables would be faults of configuration"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where(one)}: securityContext needs runAsNonRoot and seccompProfile RuntimeDefault"
    for container in containers(one):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("readOnlyRootFilesystem") is not True \
                or own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield (f"{where(one)}, {container['name']}: securityContext needs allowPrivilegeEscalation false, "
                   "readOnlyRootFilesystem and capabilities.drop [ALL]")
