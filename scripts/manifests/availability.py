"""No deployment is a single point of failure, and none can be talked to by everybody."""

from render import part_of_us, pod, selects, where


def check(manifests, _project):
    """All rules of this file."""
    yield from default_deny(manifests)
    for one in manifests.ours():
        labels = one["spec"]["template"]["metadata"]["labels"]
        if not selects(one["spec"]["selector"], labels):
            yield f"{where(one)}: its selector does not take its own pods"
        yield from budget(manifests, one, labels)
        yield from policies(manifests, one, labels)
        yield from spread(one)
        yield from account(manifests, one)
    yield from selectors_are_apart(manifests)
    yield from disruption(manifests)


def replicas_min(manifests, one):
    """The least that runs of a deployment: what an autoscaler allows, or what it says itself."""
    name = one["metadata"]["name"]
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            return scaler["spec"].get("minReplicas", 1)
    for scaler in manifests.of("ScaledObject"):
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            return scaler["spec"].get("minReplicaCount", 0)
    return one["spec"].get("replicas", 1)


def budget(manifests, one, labels):
    """One budget a deployment, and two pods at least."""
    own = [each for each in manifests.of("PodDisruptionBudget") if selects(each["spec"].get("selector"), labels)]
    if len(own) != 1:
        yield f"{where(one)}: {len(own)} PodDisruptionBudgets take its pods, and it needs one"
    least = replicas_min(manifests, one)
    if least < 2:
        yield f"{where(one)}: may run with {least} pod: two are the least without a single point of failure"


def disruption(manifests):
    """A drain of a node gets on, and leaves somebody."""
    for one in manifests.of("PodDisruptionBudget"):
        most = one["spec"].get("maxUnavailable")
        if most in (None, 0, "0%", "100%"):
            yield f"{where(one)}: maxUnavailable {most}: at least one and not all may go at once"
        if one["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{where(one)}: unhealthyPodEvictionPolicy is not AlwaysAllow: a broken pod would hold a node"


def default_deny(manifests):
    """Nobody talks to anybody unless a policy says so."""
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        if spec["podSelector"] == {} and set(spec.get("policyTypes", [])) == {"Ingress", "Egress"} \
                and not spec.get("ingress") and not spec.get("egress"):
            return
    yield "NetworkPolicy: no one denies everything in both directions for all pods"


def policies(manifests, one, labels):
    """Each can be measured, and has its ways out."""
    own = [each for each in manifests.of("NetworkPolicy")
           if each["spec"]["podSelector"] and selects(each["spec"]["podSelector"], labels)]
    for direction, kind in (("ingress", "Ingress"), ("egress", "Egress")):
        if not any(each["spec"].get(direction) and kind in each["spec"].get("policyTypes", []) for each in own):
            yield f"{where(one)}: no NetworkPolicy of its own says its {direction}"


def spread(one):
    """Not all on one node, nor in one zone."""
    keys = {each["topologyKey"] for each in pod(one).get("topologySpreadConstraints", [])}
    for key in {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} - keys:
        yield f"{where(one)}: no topologySpreadConstraint over {key}"
    if not pod(one).get("affinity", {}).get("podAntiAffinity"):
        yield f"{where(one)}: no podAntiAffinity"


def account(manifests, one):
    """Its ServiceAccount and priority class are there."""
    spec = pod(one)
    if not manifests.find("ServiceAccount", spec.get("serviceAccountName")):
        yield f"{where(one)}: ServiceAccount {spec.get('serviceAccountName')} is not there"
    if not manifests.find("PriorityClass", spec.get("priorityClassName")):
        yield f"{where(one)}: PriorityClass {spec.get('priorityClassName')} is not there"


def selectors_are_apart(manifests):
    """No two deployments take each other's pods."""
    for one in manifests.ours():
        for other in manifests.ours():
            if one is not other and selects(one["spec"]["selector"], other["spec"]["template"]["metadata"]["labels"]):
                yield f"{where(one)}: its selector takes pods of {other['metadata']['name']} too"
    for one in manifests.of("Service"):
        if part_of_us(one) and not any(selects({"matchLabels": one["spec"].get("selector", {})},
                                               each["spec"]["template"]["metadata"]["labels"])
                                       for each in manifests.ours()):
            yield f"{where(one)}: selects no pods"
