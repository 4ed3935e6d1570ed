"""Names: those that people type stay as they are, and none is longer than what is made of it may be."""

from render import where

NAMESPACE = "pat--notification--be"
NAME_MAX = 63
# What the operators' command lines name (docs/operations.md).
DEPLOYMENTS = ["app", "consumer-test-result-notification", "consumer-notification", "consumer-notification-update",
               "wrk--notifications", "wrk--default", "wrk--batch-publisher", "cron"]
# Namespaces of the servers that the kind overlay brings along.
OTHERS = {"redpanda", "postgres"}


def check(manifests, _project):
    """Lengths, the namespace, and the names that are promised."""
    for one in manifests.objects:
        name = one["metadata"]["name"]
        if len(name) > NAME_MAX:
            yield f"{where(one)}: {len(name)} characters, of {NAME_MAX}: labels and DNS names are made of it"
        if one["kind"] not in ("Namespace", "PriorityClass"):
            namespace = one["metadata"].get("namespace")
            if namespace != NAMESPACE and namespace not in OTHERS:
                yield f"{where(one)}: in namespace {namespace}, not in {NAMESPACE}"
    for name in DEPLOYMENTS:
        if not manifests.find("Deployment", f"{NAMESPACE}--{name}--prod"):
            yield f"Deployment {NAMESPACE}--{name}--prod is missing: operators type this name"
    service = manifests.find("Service", f"{NAMESPACE}--app--prod")
    ports = [(port["port"], port.get("nodePort")) for port in (service or {"spec": {}})["spec"].get("ports", [])]
    if ports != [(80, 30181)]:
        yield f"Service {NAMESPACE}--app--prod: ports {ports}; callers use NodePort 30181, which is port 80"
    seen = set()
    for one in manifests.objects:
        key = (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        if key in seen:
            yield f"{where(one)}: twice"
        seen.add(key)
