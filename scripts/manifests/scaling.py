"""What scales: triggers that KEDA knows, bounds that partitions allow, thresholds that follow from figures."""

import json
import re
from math import ceil

from names import NAME_MAX
from project import ROOT
from render import pod, variables_of, where

SCALERS = json.loads((ROOT / "tools/manifests/keda.json").read_text())["scalers"]
# Records of the fullest pod, as a multiple of what an even share would be.
IMBALANCE_MAX = 1.25
# How long a call of a provider takes when it is slow: what a pod's rate is planned with.
CALL_S = 1.0
PLAN = "plan.patient-notify/"
# Keys of [scaler] in config/default.toml begin with these.
OF_SCALER = {"consumer-test-result-notification": "results", "consumer-notification": "requests",
             "consumer-notification-update": "updates"}
PLANNED = re.compile(r"^(\d+)/s x (\d+) s$")


def check(manifests, project):
    """All rules of this file."""
    targets = set()
    for one in manifests.of("ScaledObject"):
        yield from bounds(one)
        yield from as_the_scaler_has_them(project, one)
        yield from names(one)
        yield from target(manifests, one, targets)
        for number, trigger in enumerate(one["spec"].get("triggers", [])):
            place = f"{where(one)}, trigger {trigger.get('name', number)} ({trigger['type']})"
            yield from keys(place, trigger)
            yield from authentication(manifests, place, one, trigger)
            if trigger["type"] == "kafka":
                yield from topic(project, place, one, trigger["metadata"])
            if trigger["type"] == "postgresql":
                yield from due_rows(project, place, one, trigger["metadata"])
            yield from threshold(project, place, one, trigger)
        yield from formula(one)
    for one in manifests.of("HorizontalPodAutoscaler"):
        yield from target(manifests, one, targets)
        if one["spec"].get("minReplicas", 1) > one["spec"]["maxReplicas"]:
            yield f"{where(one)}: minReplicas is above maxReplicas"


def bounds(one):
    """The least, the most and what counts when nothing is known."""
    spec = one["spec"]
    least, most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    if least > most:
        yield f"{where(one)}: minReplicaCount {least} is above maxReplicaCount {most}"
    if least < 2:
        yield f"{where(one)}: minReplicaCount {least}: two are the least without a single point of failure"
    fallback = spec.get("fallback")
    if not fallback:
        yield f"{where(one)}: no fallback for when nothing is known"
    elif not least <= fallback["replicas"] <= most:
        yield f"{where(one)}: fallback.replicas {fallback['replicas']} is not between {least} and {most}"
    if not spec.get("triggers"):
        yield f"{where(one)}: no triggers"


def as_the_scaler_has_them(project, one):
    """The scaler's own bounds are those of the ScaledObject: it would want what the HPA refuses."""
    kind = OF_SCALER.get(one["metadata"]["name"])
    for key, end in [("minReplicaCount", "min"), ("maxReplicaCount", "max")]:
        if kind and one["spec"].get(key) != project.config["scaler"][f"{kind}_replicas_{end}"]:
            yield (f"{where(one)}: {key} {one['spec'].get(key)} is not scaler.{kind}_replicas_{end} "
                   f"{project.config['scaler'][f'{kind}_replicas_{end}']} of config/default.toml")


def names(one):
    """The HPA has a name of its own: KEDA's, with keda-hpa- before it, may be too long."""
    advanced = one["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    name = advanced.get("name", f"keda-hpa-{one['metadata']['name']}")
    if len(name) > NAME_MAX:
        yield f"{where(one)}: the HPA's name {name} has {len(name)} characters, of {NAME_MAX}: KEDA's webhook refuses it"
    if "name" not in advanced:
        yield f"{where(one)}: advanced.horizontalPodAutoscalerConfig.name is not set"
    behavior = advanced.get("behavior", {})
    if not {"scaleUp", "scaleDown"} <= behavior.keys():
        yield f"{where(one)}: behavior of scaleUp and scaleDown is not set"


def target(manifests, one, targets):
    """One scaler a deployment, which leaves its replicas to it."""
    name = one["spec"]["scaleTargetRef"]["name"]
    deployment = manifests.find("Deployment", name)
    if not deployment:
        yield f"{where(one)}: Deployment {name} is not there"
    elif "replicas" in deployment["spec"]:
        yield f"{where(deployment)}: replicas is set, and applying it would undo what {where(one)} decided"
    if name in targets:
        yield f"{where(one)}: another one scales {name} too: the two would fight"
    targets.add(name)


def keys(place, trigger):
    """Keys and values that the scaler knows: KEDA itself accepts every other one in silence."""
    known = SCALERS.get(trigger["type"])
    if known is None:
        yield f"{place}: unknown type (or not among those of tools/manifests/keda.json)"
        return
    parameters = {one["name"]: one for one in known}
    given = trigger.get("metadata", {})
    # What the server on the other end of an external scaler reads is its own affair, and src/scaler says it.
    is_open = trigger["type"].startswith("external")
    for key, value in given.items():
        name = key.removesuffix("FromEnv") if key not in parameters else key
        one = parameters.get(name)
        if one is None:
            if not is_open:
                yield f"{place}: unknown key {key}: it would be ignored"
        elif name != key and not one.get("envVariableReadable"):
            yield f"{place}: {name} cannot come from a variable"
        elif not isinstance(value, str):
            yield f"{place}: {key} must be a string"
        elif one.get("allowedValue") and name == key and value not in one["allowedValue"]:
            yield f"{place}: {key}: {value} is not one of {', '.join(one['allowedValue'])}"
    for name, one in parameters.items():
        if not one.get("optional") and "default" not in one and not {name, f"{name}FromEnv"} & given.keys():
            yield f"{place}: {name} is missing"


def authentication(manifests, place, one, trigger):
    """What a TriggerAuthentication gives is what the scaler takes; variables are the target's."""
    reference = trigger.get("authenticationRef", {}).get("name")
    if reference:
        found = manifests.find("TriggerAuthentication", reference)
        if not found:
            yield f"{place}: TriggerAuthentication {reference} is not there"
            return
        known = {each["name"] for each in SCALERS.get(trigger["type"], [])
                 if each.get("triggerAuthenticationVariableReadable")}
        for each in found["spec"].get("secretTargetRef", []):
            if each["parameter"] not in known:
                yield f"{place}: TriggerAuthentication {reference} gives {each['parameter']}, which it does not take"
    sasl = trigger.get("metadata", {}).get("sasl", "none")
    if trigger["type"] == "kafka" and sasl != "none" and not reference:
        yield f"{place}: sasl {sasl} without an authenticationRef"
    deployment = manifests.find("Deployment", one["spec"]["scaleTargetRef"]["name"])
    for key, variable in trigger.get("metadata", {}).items():
        if key.endswith("FromEnv") and deployment:
            given = variables_of(manifests, pod(deployment)["containers"][0])
            if not given.get(variable):
                yield f"{place}: {key}: the deployment's first container has no value of {variable}"


def topic(project, place, one, given):
    """The topic and its group are ours, and its partitions go round."""
    found = project.topics.get(given.get("topic"))
    if not found:
        yield f"{place}: topic {given.get('topic')} is not one of src/topic/names.rs"
        return
    if given.get("consumerGroup") != found["group"]:
        yield f"{place}: group {given.get('consumerGroup')} does not read it; {found['group']} does"
    partitions, spec = found["partitions"], one["spec"]
    least, most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    if partitions < most:
        yield f"{place}: {partitions} partitions, and up to {most} pods: some would have nothing to do"
    for replicas in range(max(least, 1), most + 1):
        imbalance = ceil(partitions / replicas) * replicas / partitions
        if imbalance > IMBALANCE_MAX:
            yield (f"{place}: with {replicas} pods the fullest has {imbalance:.2f} of an even share of "
                   f"{partitions} partitions, of {IMBALANCE_MAX} at most")
    if given.get("offsetResetPolicy") != "earliest":
        yield f"{place}: offsetResetPolicy is not earliest: what nobody has committed yet would not count"
    tolerance = one["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}) \
        .get("behavior", {}).get("scaleUp", {}).get("tolerance")
    if given.get("allowIdleConsumers") != "true" and tolerance != "0":
        yield f"{place}: the cap at the partitions and the HPA's tolerance strand the last pod: allowIdleConsumers"


def due_rows(project, place, one, given):
    """The view and the lane are there, and it counts as far as the most pods need."""
    (lane,) = re.findall(r"FROM scaler_due_deliveries WHERE lane = '(\w+)'", given.get("query", "")) or [None]
    bound = project.view_bounds.get(lane)
    if bound is None:
        yield f"{place}: the query names no lane of scaler_due_deliveries (migrations/V21__scaler_views.sql)"
        return
    needed = one["spec"]["maxReplicaCount"] * int(given.get("targetQueryValue", 0))
    if bound != needed:
        yield f"{place}: the view counts to {bound}, and maxReplicaCount x targetQueryValue is {needed}"


def rate_max(project, one, trigger):
    """Records a second that one pod can have under way with slow providers, by what config/ allows."""
    config, role = project.config, one["metadata"]["name"]
    is_bulk = "bulk" in trigger.get("name", "")
    if role == "wrk--notifications":
        places = config["workers"]["in_flight_max"] / (2 if is_bulk else 1)
    elif is_bulk:
        places = config["processor"]["bulk_in_flight_max"]
    else:
        places = min(config["processor"]["in_flight_max"], config["sms"]["concurrency"])
    return places / CALL_S


def threshold(project, place, one, trigger):
    """A threshold is the annotated rate times wait, and neither follows from wishes."""
    value = {"kafka": "lagThreshold", "postgresql": "targetQueryValue"}.get(trigger["type"])
    if value is None:
        return
    plan = one["metadata"].get("annotations", {}).get(PLAN + trigger.get("name", ""), "")
    planned = PLANNED.match(plan)
    if not planned:
        yield f"{place}: annotation {PLAN}{trigger.get('name')} is not of the form `500/s x 4 s`: {plan!r}"
        return
    rate, wait_s = map(int, planned.groups())
    given = float(trigger["metadata"].get(value, "10"))
    if given != rate * wait_s:
        yield f"{place}: {value} {given:g} is not {plan} = {rate * wait_s}"
    if rate > rate_max(project, one, trigger):
        yield (f"{place}: {rate}/s a pod, and config/default.toml has places for "
               f"{rate_max(project, one, trigger):g} calls of {CALL_S:g} s")
    commit_s = project.config["processor"]["commit_interval_ms"] / 1000
    if trigger["type"] == "kafka" and given <= rate * (CALL_S + commit_s):
        yield (f"{place}: {value} {given:g} is not above what is in flight without a backlog, "
               f"{rate}/s x ({CALL_S:g} s of a call + {commit_s:g} s of a commit): pods would ask for pods")


def formula(one):
    """A formula's names are those of its triggers."""
    modifiers = one["spec"].get("advanced", {}).get("scalingModifiers")
    if not modifiers:
        yield f"{where(one)}: scalingModifiers has no formula, not even an empty one: a way back would be refused"
        return
    if not modifiers["formula"]:
        return
    triggers = {trigger.get("name") for trigger in one["spec"]["triggers"]}
    functions = {"max", "min", "ceil", "floor", "abs", "round", "float", "int", "sum", "mean", "median", "count"}
    for name in set(re.findall(r"[a-zA-Z_]\w*", modifiers["formula"])) - functions - triggers:
        yield f"{where(one)}: scalingModifiers.formula names {name}, which is no trigger"
    if "target" not in modifiers or float(modifiers["target"]) <= 0:
        yield f"{where(one)}: scalingModifiers.target must be above 0"
