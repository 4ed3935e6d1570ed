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
        """Partitions, retention, reading group and schema's file of each topic, by name."""
        text = self._text("src/topic/names.rs")
        day_ms = 24 * 60 * 60 * 1000
        topics = {}
        for body in re.findall(r": Topic = Topic \{(.*?)\};", text, re.S):
            field = dict(re.findall(r"(\w+): (.+?),\n", body))
            (days,) = re.findall(r"(\d+) \* DAY_MS", field["retention_ms"])
            group, schema = (re.findall(r'Some\("(.+?)"\)', field[key]) for key in ("group", "schema"))
            topics[field["name"].strip('"')] = {
                "partitions": int(field["partitions"]), "retention_ms": int(days) * day_ms,
                "group": group[0] if group else None, "schema": schema[0] if schema else None}
        (partitions,) = re.findall(r"DLQ_PARTITIONS: i32 = (\d+)", text)
        (days,) = re.findall(r"DLQ_RETENTION_MS: i64 = (\d+) \* DAY_MS", text)
        for name in [name for name, topic in topics.items() if topic["group"]]:
            topics[f"{name}.dlq"] = {"partitions": int(partitions), "retention_ms": int(days) * day_ms,
                                     "group": None, "schema": None}
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
