#!/usr/bin/env python3
"""The checks of manifests find nothing in ours, and each fault that is put into them.

    make test-manifests
"""

import copy
import unittest

from lint import faults, rendered_sets
from project import Project
from render import Manifests, pod

CONSUMER = "consumer-test-result-notification"
DEPLOYMENT = f"pat--notification--be--{CONSUMER}--prod"


SETS = {}


def setUpModule():  # unittest's name
    """Renders once for all tests, which work on copies."""
    SETS.update({one.name: one for one in rendered_sets()})


class Broken(unittest.TestCase):
    """One fault at a time in a copy of what is rendered."""

    project = Project()
    sets = SETS

    def setUp(self):
        sound = self.sets["prod with simple"]
        self.manifests = Manifests(sound.name, copy.deepcopy(sound.objects))

    def refuses(self, *words):
        """There are faults, and one of them has all of these words."""
        found = []
        for fault in faults(self.manifests, self.project):
            if all(word in fault for word in words):
                return
            found.append(fault)
        self.fail(f"{words} not in {found}")

    def scaled(self):
        return self.manifests.find("ScaledObject", CONSUMER)

    def trigger(self):
        return self.scaled()["spec"]["triggers"][0]["metadata"]

    def deployment(self):
        return self.manifests.find("Deployment", DEPLOYMENT)

    def container(self):
        (one,) = pod(self.deployment())["containers"]
        return one

    def remove(self, kind, name):
        self.manifests.objects.remove(self.manifests.find(kind, name))


class Sound(Broken):
    def test_every_set_is_sound(self):
        for manifests in self.sets.values():
            self.assertEqual(list(faults(manifests, self.project)), [], manifests.name)


class Scaling(Broken):
    def test_a_misspelt_trigger_key(self):
        self.trigger()["lagTreshold"] = self.trigger().pop("lagThreshold")
        self.refuses("unknown key lagTreshold")

    def test_a_trigger_without_what_it_needs(self):
        del self.trigger()["bootstrapServersFromEnv"]
        self.refuses("bootstrapServers is missing")

    def test_a_value_that_the_scaler_does_not_know(self):
        self.trigger()["offsetResetPolicy"] = "oldest"
        self.refuses("oldest is not one of latest, earliest")

    def test_an_unknown_type_of_trigger(self):
        self.scaled()["spec"]["triggers"][0]["type"] = "kafcka"
        self.refuses("kafcka", "unknown type")

    def test_the_most_below_the_least(self):
        self.scaled()["spec"]["maxReplicaCount"] = 5
        self.refuses("minReplicaCount 6 is above maxReplicaCount 5")

    def test_bounds_that_the_scaler_does_not_have(self):
        self.scaled()["spec"]["maxReplicaCount"] = 20
        self.refuses("maxReplicaCount 20 is not scaler.results_replicas_max 15")

    def test_the_front_s_most_below_its_least(self):
        self.manifests.find("HorizontalPodAutoscaler", "app")["spec"]["maxReplicas"] = 1
        self.refuses("minReplicas is above maxReplicas")

    def test_a_name_of_the_hpa_that_is_too_long(self):
        self.scaled()["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"] = f"keda-hpa-{DEPLOYMENT}"
        self.refuses("has 71 characters, of 63")

    def test_no_name_of_the_hpa(self):
        self.scaled()["metadata"]["name"] = DEPLOYMENT
        del self.scaled_by_target()["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"]
        self.refuses(f"keda-hpa-{DEPLOYMENT}", "has 71 characters")

    def scaled_by_target(self):
        return next(one for one in self.manifests.of("ScaledObject")
                    if one["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT)

    def test_fewer_partitions_than_pods(self):
        self.project = Project()
        self.project.topics["pat.test-results.v1"]["partitions"] = 12
        self.refuses("12 partitions, and up to 15 pods")

    def test_partitions_that_do_not_go_round(self):
        self.project = Project()
        self.project.topics["pat.test-results.v1"]["partitions"] = 15
        self.refuses("with 14 pods the fullest has 1.87 of an even share")

    def test_a_topic_that_is_not_there(self):
        self.trigger()["topic"] = "pat.test-result.v1"
        self.refuses("pat.test-result.v1 is not one of")

    def test_somebody_else_s_group(self):
        self.trigger()["consumerGroup"] = "consumer-notification"
        self.refuses("consumer-test-result-notification does")

    def test_a_threshold_that_no_figure_leads_to(self):
        self.trigger()["lagThreshold"] = "100"
        self.refuses("lagThreshold 100 is not 500/s x 4 s = 2000")

    def test_a_threshold_below_what_is_in_flight(self):
        self.scaled()["metadata"]["annotations"]["plan.patient-notify/results"] = "500/s x 2 s"
        self.trigger()["lagThreshold"] = "1000"
        self.refuses("is not above what is in flight")

    def test_a_rate_that_the_configuration_has_no_places_for(self):
        self.project = Project()
        self.project.config["sms"]["concurrency"] = 64
        self.refuses("500/s a pod", "has places for 64")

    def test_due_rows_that_the_view_does_not_count(self):
        self.manifests.find("ScaledObject", "wrk--notifications")["spec"]["maxReplicaCount"] = 12
        self.refuses("the view counts to 15000", "is 30000")

    def test_a_fallback_out_of_bounds(self):
        self.scaled()["spec"]["fallback"]["replicas"] = 3
        self.refuses("fallback.replicas 3 is not between 6 and 15")

    def test_a_target_that_is_not_there(self):
        self.scaled()["spec"]["scaleTargetRef"]["name"] = "consumer"
        self.refuses("Deployment consumer is not there")

    def test_replicas_beside_an_autoscaler(self):
        self.deployment()["spec"]["replicas"] = 6
        self.refuses("replicas is set")

    def test_two_scalers_of_one_deployment(self):
        self.manifests.find("ScaledObject", "consumer-notification")["spec"]["scaleTargetRef"]["name"] = DEPLOYMENT
        self.refuses("another one scales")

    def test_an_authentication_that_is_not_there(self):
        self.remove("TriggerAuthentication", "kafka")
        self.refuses("TriggerAuthentication kafka is not there")

    def test_a_variable_that_the_deployment_does_not_have(self):
        self.trigger()["bootstrapServersFromEnv"] = "BROKERS"
        self.refuses("no value of BROKERS")

    def test_a_formula_with_a_name_of_no_trigger(self):
        sound = self.sets["prod with rate-aware"]
        self.manifests = Manifests(sound.name, copy.deepcopy(sound.objects))
        self.scaled()["spec"]["advanced"]["scalingModifiers"]["formula"] = "(arival + results / 30) / rate"
        self.refuses("names arival")

    def test_a_field_that_keda_does_not_have(self):
        self.scaled()["spec"]["minReplicas"] = 6
        self.refuses("ScaledObject", "minReplicas")


class Workloads(Broken):
    def test_a_missing_probe(self):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.setUp()
            del self.container()[probe]
            self.refuses(f"{probe} is missing")

    def test_a_probe_of_something_else(self):
        self.container()["livenessProbe"]["httpGet"]["path"] = "/health/ready"
        self.refuses("livenessProbe asks for /health/ready")

    def test_a_probe_of_a_port_that_nothing_listens_on(self):
        self.container()["ports"][0]["containerPort"] = 9999
        self.refuses("nothing listens on 9999")

    def test_a_pod_that_is_killed_in_its_drain(self):
        pod(self.deployment())["terminationGracePeriodSeconds"] = 30
        self.refuses("terminationGracePeriodSeconds 30", "need 45")

    def test_an_image_without_a_version(self):
        for image in ("patient-notify", "patient-notify:latest", "registry.example.org/pat/patient-notify"):
            self.setUp()
            self.container()["image"] = image
            self.refuses(f"image {image} is not pinned")

    def test_a_subcommand_that_is_not_there(self):
        self.container()["args"] = ["consumer-test-results"]
        self.refuses("consumer-test-results` is no subcommand")

    def test_a_variable_that_sets_no_key(self):
        self.container()["env"].append({"name": "PATIENT_NOTIFY_KAFKA__BOOTSTRAP", "value": "x"})
        self.refuses("PATIENT_NOTIFY_KAFKA__BOOTSTRAP sets no key")

    def test_more_rights_than_needed(self):
        self.container()["securityContext"]["readOnlyRootFilesystem"] = False
        self.refuses("readOnlyRootFilesystem")

    def test_no_bound_of_memory(self):
        del self.container()["resources"]["limits"]
        self.refuses("a limit of memory")

    def test_a_misspelt_field(self):
        self.container()["readynessProbe"] = self.container().pop("readinessProbe")
        self.refuses("readynessProbe")

    def test_a_field_of_another_type(self):
        self.deployment()["spec"]["minReadySeconds"] = "15"
        self.refuses("minReadySeconds", "is not of type 'integer'")


class Availability(Broken):
    def test_no_disruption_budget(self):
        self.remove("PodDisruptionBudget", CONSUMER)
        self.refuses(DEPLOYMENT, "0 PodDisruptionBudgets")

    def test_a_budget_that_holds_nodes(self):
        self.manifests.find("PodDisruptionBudget", CONSUMER)["spec"]["maxUnavailable"] = 0
        self.refuses("maxUnavailable 0")

    def test_nothing_is_denied(self):
        self.remove("NetworkPolicy", "default-deny")
        self.refuses("no one denies everything")

    def test_no_policy(self):
        for one in list(self.manifests.of("NetworkPolicy")):
            if one["metadata"]["name"] != "default-deny":
                self.manifests.objects.remove(one)
        self.refuses(DEPLOYMENT, "no NetworkPolicy of its own says its egress")

    def test_a_single_pod(self):
        self.manifests.find("Deployment", "pat--notification--be--cron--prod")["spec"]["replicas"] = 1
        self.refuses("may run with 1 pod")

    def test_all_on_one_node(self):
        del pod(self.deployment())["topologySpreadConstraints"]
        self.refuses("no topologySpreadConstraint over kubernetes.io/hostname")

    def test_pods_of_two_deployments(self):
        del self.deployment()["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        self.refuses(DEPLOYMENT, "its selector takes pods of")


class Names(Broken):
    def test_a_name_that_operators_type(self):
        self.deployment()["metadata"]["name"] = "consumer-test-result-notification"
        self.refuses(f"Deployment {DEPLOYMENT} is missing")

    def test_a_name_that_is_too_long(self):
        self.remove("PodDisruptionBudget", CONSUMER)
        self.manifests.find("Deployment", "pat--notification--be--cron--prod")["metadata"]["name"] += "-" + "n" * 40
        self.refuses("characters, of 63")

    def test_the_front_s_port(self):
        self.manifests.find("Service", "pat--notification--be--app--prod")["spec"]["ports"][0]["nodePort"] = 30182
        self.refuses("NodePort 30181")

    def test_another_namespace(self):
        self.deployment()["metadata"]["namespace"] = "default"
        self.refuses("in namespace default")


class Hidden(Broken):
    def test_a_secret_in_the_repository(self):
        self.manifests.objects.append({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": "x"},
                                       "metadata": {"name": "s", "namespace": "pat--notification--be"}})
        self.refuses("Secret s: Secrets come from outside")

    def test_a_secret_in_a_variable(self):
        self.container()["env"].append({"name": "PATIENT_NOTIFY_SMS__AUTH_TOKEN", "value": "0123456789abcdef"})
        self.refuses("PATIENT_NOTIFY_SMS__AUTH_TOKEN has a value")

    def test_a_password_in_an_address(self):
        self.trigger()["bootstrapServers"] = "kafka://someone:pass@broker:9093"
        self.refuses("looks like a password in an address")

    def test_a_file_that_nothing_mounts(self):
        self.container()["volumeMounts"] = [mount for mount in self.container()["volumeMounts"]
                                            if mount["name"] != "kafka"]
        self.refuses("PATIENT_NOTIFY_KAFKA__SASL_PASSWORD_FILE", "nothing is mounted there")

    def test_a_secret_that_nobody_brings(self):
        self.remove("ExternalSecret", "patient-notify-providers")
        self.refuses("Secret patient-notify-providers of volume providers is in no ExternalSecret")


class Redpanda(Broken):
    def test_other_partitions_than_the_program_s(self):
        self.manifests.find("Topic", "pat.test-results.v1")["spec"]["partitions"] = 12
        self.refuses("12 partitions", "says 60")

    def test_another_schema(self):
        self.manifests.find("Schema", "pat.test-results.v1-value")["spec"]["text"] = '"string"'
        self.refuses("differs from avro/")

    def test_brokers_that_anybody_may_use(self):
        self.manifests.find("Redpanda", "redpanda")["spec"]["clusterSpec"]["auth"]["sasl"]["enabled"] = False
        self.refuses("auth.sasl is not enabled")

    def test_a_password_of_nobody(self):
        self.remove("User", "cron")
        self.refuses("ExternalSecret kafka-cron", "no User cron")


if __name__ == "__main__":
    unittest.main()
