#!/usr/bin/env python3
"""The program takes the settings that each container of deploy/ gives it.

    scripts/manifests/run.sh test_settings.py PROGRAM

Each container's variables are handed to `PROGRAM config check`, with its Secrets as files of
made-up contents, so what a pod would refuse at its start is refused here.
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lint import rendered_sets
from project import ROOT
from render import containers, variables_of, where

SECRETS = "/run/secrets/patient-notify"
CONFIG = "/etc/patient-notify/default.toml"
CONTENTS = {"url": "postgres://someone:made-up@db.example.org/patient_notify"}


def check(folder, variables):
    """What `config check` says with these variables, with files in `folder` in place of Secrets."""
    given = {}
    for name, value in variables.items():
        # A reference to a field of the pod.
        value = "made-up" if value is None else value.replace(SECRETS, str(folder))
        value = value.replace(CONFIG, str(ROOT / "config/default.toml"))
        if value.startswith(f"{folder}/"):
            file = Path(value)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_text(CONTENTS.get(file.name, "made-up-" * 8))
        given[name] = value
    return subprocess.run([PROGRAM, "config", "check"], env=given, capture_output=True, text=True)


class Settings(unittest.TestCase):
    sets = rendered_sets()

    def test_each_container_s_settings_are_taken(self):
        # Many have the same ones: each is asked about once.
        distinct = {}
        for manifests in self.sets:
            for one in [*manifests.ours(), *manifests.of("Job")]:
                for container in containers(one):
                    variables = variables_of(manifests, container)
                    place = f"{manifests.name}: {where(one)}, {container['name']}"
                    distinct.setdefault(frozenset(variables.items()), place)
        for variables, place in distinct.items():
            with self.subTest(place), tempfile.TemporaryDirectory() as folder:
                told = check(Path(folder), dict(variables))
                self.assertEqual(told.returncode, 0, told.stdout + told.stderr)

    def test_a_setting_that_does_not_fit_is_refused(self):
        (manifests,) = [one for one in self.sets if one.name == "prod with simple"]
        one = manifests.find("Deployment", "pat--notification--be--cron--prod")
        (container,) = [each for each in containers(one) if each["name"] == "patient-notify"]
        variables = variables_of(manifests, container)
        del variables["PATIENT_NOTIFY_KAFKA__SASL_USERNAME"]
        with tempfile.TemporaryDirectory() as folder:
            told = check(Path(folder), variables)
        self.assertEqual(told.returncode, 64, told.stdout + told.stderr)
        self.assertIn("sasl_username", told.stdout + told.stderr)


if __name__ == "__main__":
    PROGRAM = Path(sys.argv.pop(1)).resolve()
    unittest.main()
