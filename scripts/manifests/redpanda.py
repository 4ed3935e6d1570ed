"""Redpanda's resources say of topics, schemas and users what the program says."""

import json
import re

from project import ROOT
from render import where

# What SCRAM passwords of a role are asked for by.
MECHANISM = "scram-sha-512"
OPERATIONS = {"Read", "Write", "Delete", "Alter", "Describe", "IdempotentWrite", "ClusterAction", "Create",
              "AlterConfigs", "DescribeConfigs", "All"}


def check(manifests, project):
    """All rules of this file; a set without these resources brings its own brokers."""
    if not manifests.of("Redpanda"):
        return
    yield from cluster(manifests)
    yield from topics(manifests, project)
    yield from schemas(manifests, project)
    yield from users(manifests, project)


def cluster(manifests):
    """TLS and SCRAM are on, no topic makes itself, what is acknowledged is on disks."""
    for one in manifests.of("Redpanda"):
        spec = one["spec"]["clusterSpec"]
        if not spec.get("tls", {}).get("enabled"):
            yield f"{where(one)}: tls is not enabled"
        sasl = spec.get("auth", {}).get("sasl", {})
        if not sasl.get("enabled") or not sasl.get("mechanism", "").startswith("SCRAM-"):
            yield f"{where(one)}: auth.sasl is not enabled with SCRAM"
        settings = spec.get("config", {}).get("cluster", {})
        if settings.get("auto_create_topics_enabled") is not False:
            yield f"{where(one)}: auto_create_topics_enabled is not false"
        if settings.get("write_caching_default") != "disabled":
            yield f"{where(one)}: write_caching_default is not disabled"
        if spec.get("statefulset", {}).get("replicas", 1) < 3:
            yield f"{where(one)}: fewer than three brokers"
        if not re.match(r"^v\d+\.\d+\.\d+$", spec.get("image", {}).get("tag", "")):
            yield f"{where(one)}: image is not pinned to a version"


def topics(manifests, project):
    """Each topic is there, with the partitions and the retention of src/topic/names.rs."""
    declared = {one["metadata"]["name"]: one for one in manifests.of("Topic")}
    for name, topic in project.topics.items():
        one = declared.pop(name, None)
        if one is None:
            yield f"Topic {name} is missing"
            continue
        spec = one["spec"]
        if spec["partitions"] != topic["partitions"]:
            yield f"{where(one)}: {spec['partitions']} partitions; src/topic/names.rs says {topic['partitions']}"
        if spec["additionalConfig"].get("retention.ms") != str(topic["retention_ms"]):
            yield (f"{where(one)}: retention.ms {spec['additionalConfig'].get('retention.ms')}; "
                   f"src/topic/names.rs says {topic['retention_ms']}")
        if spec["replicationFactor"] < 3:
            yield f"{where(one)}: replicationFactor {spec['replicationFactor']}: one broker's disk would be all"
    for one in declared.values():
        yield f"{where(one)}: is not one of src/topic/names.rs"


def schemas(manifests, project):
    """Each subject is there, with the text of avro/."""
    declared = {one["metadata"]["name"]: one for one in manifests.of("Schema")}
    for name, topic in project.topics.items():
        if not topic["schema"]:
            continue
        one = declared.get(f"{name}-value")
        if one is None:
            yield f"Schema {name}-value is missing"
        elif json.loads(one["spec"]["text"]) != json.loads((ROOT / "avro" / topic["schema"]).read_text()):
            yield f"{where(one)}: its text differs from avro/{topic['schema']}"
        elif one["spec"].get("compatibilityLevel") != "Backward":
            yield f"{where(one)}: compatibilityLevel is not Backward"


def users(manifests, project):
    """Every user that a pod or KEDA is, by SCRAM, with rights on topics and groups that there are."""
    declared = {one["metadata"]["name"]: one for one in manifests.of("User")}
    for secret in manifests.of("ExternalSecret"):
        name = secret["metadata"]["name"].removeprefix("kafka-")
        if secret["metadata"]["name"].startswith("kafka-") and name not in declared:
            yield f"{where(secret)}: no User {name} has this password"
    names = [*project.topics, *{topic["group"] for topic in project.topics.values() if topic["group"]}, "tail", "dlq"]
    for one in declared.values():
        if one["spec"]["authentication"].get("type") != MECHANISM:
            yield f"{where(one)}: authentication is not {MECHANISM}"
        for rule in one["spec"]["authorization"]["acls"]:
            resource = rule["resource"]
            if set(rule["operations"]) - OPERATIONS:
                yield f"{where(one)}: operations {sorted(set(rule['operations']) - OPERATIONS)} do not exist"
            if resource["type"] == "cluster":
                continue
            fits = str.startswith if resource.get("patternType") == "prefixed" else str.__eq__
            if not any(fits(name, resource["name"]) for name in names):
                yield f"{where(one)}: {resource['type']} {resource['name']} is none of ours"
