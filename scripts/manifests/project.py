"""What the repository says of itself, for the checks of its manifests: topics, settings, subcommands."""

import re
import tomllib
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """Facts read from the sources that the program is built from, so that none is stated twice."""

    def __init__(self, root=ROOT):
        self.root = root

    def _text(self, path):
        return (self.root / path).read_text()

    @cached_property
    def config(self):
        """The defaults, section by section."""
        return tomllib.loads(self._text("config/default.toml"))

    @cached_property
    def topics(self):
        """Partitions and reading group of each topic, by name."""
        text = self._text("src/topic/names.rs")
        found = re.findall(r'name: "([^"]+)",\s*partitions: (\d+),.*?group: (None|Some\("([^"]+)"\))', text, re.S)
        topics = {name: {"partitions": int(count), "group": group or None} for name, count, _, group in found}
        (dlq,) = re.findall(r"DLQ_PARTITIONS: i32 = (\d+)", text)
        for name in [name for name, topic in topics.items() if topic["group"]]:
            topics[f"{name}.dlq"] = {"partitions": int(dlq), "group": None}
        return topics

    @cached_property
    def secret_keys(self):
        """Keys whose value may stand in a file, as `section.key`."""
        rules = self._text("src/config/rules.rs").split('rule("')[1:]
        return {rule.split('"')[0] for rule in rules if ".secret()" in rule}

    @cached_property
    def variables(self):
        """Every environment variable that sets a key."""
        prefix = "PATIENT_NOTIFY_"
        keys = [(section, key) for section, content in self.config.items() for key in content]
        names = {f"{prefix}{section}__{key}".upper(): f"{section}.{key}" for section, key in keys}
        files = {f"{name}_FILE": key for name, key in names.items() if key in self.secret_keys}
        return names | files | {f"{prefix}CONFIG": "", "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}

    @cached_property
    def subcommands(self):
        """Names of the program's subcommands, as clap derives them."""
        (body,) = re.findall(r"pub enum Command \{(.*?)\n\}", self._text("src/cli/mod.rs"), re.S)
        variants = re.findall(r"^    ([A-Z][A-Za-z]+)\b", body, re.M)
        return {re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in variants}

    @cached_property
    def probe_paths(self):
        """Paths that the probe port serves."""
        return set(re.findall(r'route\("(/[a-z/]+)"', self._text("src/telemetry.rs")))

    @cached_property
    def view_bounds(self):
        """Rows that the view of due deliveries counts at most, by lane."""
        text = self._text("migrations/V21__scaler_views.sql")
        return {lane: int(most) for lane, most in re.findall(r"SELECT '(\w+)'.*?LIMIT (\d+)\) AS counted", text, re.S)}
