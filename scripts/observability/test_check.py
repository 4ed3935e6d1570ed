"""The checks find each of these faults in a copy of the tree, and nothing in the tree itself."""

import pathlib
import shutil
import tempfile
import unittest

import check
import generate
from tree import ROOT, Tree


class Broken(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for part in ("deploy/observability", "docs/runbooks"):
            shutil.copytree(ROOT / part, self.root / part)
        shutil.copy(ROOT / "docs" / "measures.md", self.root / "docs" / "measures.md")

    def replace(self, path, old, new):
        file = self.root / path
        text = file.read_text()
        self.assertIn(old, text, path)
        file.write_text(text.replace(old, new))

    def finds(self, looks, words):
        problems = list(looks(Tree(self.root)))
        self.assertTrue(any(words in problem for problem in problems), problems)

    def test_a_sound_tree_has_no_fault(self):
        for looks in check.CHECKS:
            if looks not in (check.rules_do_what_they_should, check.rules_are_valid):
                self.assertEqual(list(looks(Tree(self.root))), [], looks.__name__)

    def test_a_measure_that_does_not_exist(self):
        self.replace("deploy/observability/rules/delivery.yaml",
                     "patient_notify_due_oldest_age_seconds", "patient_notify_due_age_seconds")
        self.finds(check.only_measures_that_exist_are_asked_for, "no measure patient_notify_due_age_seconds")

    def test_a_label_that_a_measure_does_not_have(self):
        self.replace("docs/measures.md", "`patient_notify_accept_to_provider_duration_seconds{purpose, urgency}`",
                     "`patient_notify_accept_to_provider_duration_seconds{purpose}`")
        self.finds(check.only_measures_that_exist_are_asked_for, "has no label urgency")

    def test_a_measure_that_only_a_dashboard_asks_for(self):
        self.replace("deploy/observability/dashboards/providers.json",
                     "patient_notify_provider_call_duration_seconds", "patient_notify_provider_seconds")
        self.finds(check.only_measures_that_exist_are_asked_for, "dashboards/providers.json")

    def test_an_expression_that_cannot_be_read(self):
        self.replace("deploy/observability/rules/delivery.yaml", "max by (queue, urgency)", "max by queue, urgency)")
        self.finds(check.every_expression_can_be_read, "parse error")

    def test_an_alert_without_a_page(self):
        (self.root / "docs/runbooks/PatientNotifyDueTooOld.md").unlink()
        self.finds(check.every_alert_has_its_page, "PatientNotifyDueTooOld.md is missing")

    def test_a_page_that_names_a_deployment_that_does_not_exist(self):
        self.replace("docs/runbooks/PatientNotifyDueTooOld.md",
                     "pat--notification--be--wrk--notifications--prod", "pat--notification--be--wrk-notifications--prod")
        self.finds(check.every_alert_has_its_page, "no deployment pat--notification--be--wrk-notifications--prod")

    def test_an_alert_that_nobody_has_tested(self):
        (self.root / "deploy/observability/tests/delivery.test.yaml").unlink()
        self.finds(check.every_alert_is_tested_firing_and_quiet, "PatientNotifyDueTooOld has no test in which it fires")

    def test_an_alert_that_does_not_fire_when_it_should(self):
        self.replace("deploy/observability/rules/delivery.yaml",
                     "patient_notify_circuit_open", "patient_notify_breaker_open")
        self.finds(check.rules_do_what_they_should, "PatientNotifyCircuitOpen")

    def test_an_alert_without_severity(self):
        self.replace("deploy/observability/rules/delivery.yaml", "severity: page", "severity: loud")
        self.finds(check.every_alert_tells_what_it_has_to, "has no severity")

    def test_a_burn_rate_that_nothing_reaches(self):
        self.replace("deploy/observability/rules/objectives.yaml", "expr: vector(0.95)", "expr: vector(0.5)")
        self.finds(check.every_alert_can_fire, "is never reached")

    def test_panels_that_overlap(self):
        self.replace("deploy/observability/dashboards/overview.json", '"x": 12', '"x": 0')
        self.finds(check.dashboards_can_be_loaded, "overlap")

    def test_a_derived_file_that_was_changed_by_hand(self):
        home, generate.HERE = generate.HERE, self.root / "deploy" / "observability"
        self.addCleanup(setattr, generate, "HERE", home)
        self.assertEqual(generate.stale(generate.wanted()), [])
        self.replace("deploy/observability/prometheus-rules/delivery.yaml", "severity: page", "severity: ticket")
        self.assertEqual(generate.stale(generate.wanted()), ["prometheus-rules/delivery.yaml"])


if __name__ == "__main__":
    unittest.main()
