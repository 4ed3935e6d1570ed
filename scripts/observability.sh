#!/usr/bin/env bash
# Dashboards, rules and runbooks (docs/observability.md).
#
#   scripts/observability.sh check   are they valid, do they agree, do the alerts work?
#   scripts/observability.sh write   write what is derived: dashboards, the operator's rules
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/versions.env
source tools/versions.env
# shellcheck source=scripts/tools-dir.sh
source scripts/tools-dir.sh

die() {
  printf 'observability: error: %s\n' "$*" >&2
  exit 1
}

yaml_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import yaml' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  die "no python3 with yaml found: run scripts/install.sh check"
}

python=$(yaml_python)
export PROMTOOL=$TOOLS_DIR/prometheus-$PROMETHEUS_VERSION/bin/promtool
# No folder of compiled modules beside the sources.
export PYTHONDONTWRITEBYTECODE=1
case ${1:-} in
  write) exec "$python" scripts/observability/generate.py ;;
  check)
    "$python" scripts/observability/generate.py --check
    "$python" scripts/observability/check.py
    exec "$python" -m unittest discover --quiet --start-directory scripts/observability
    ;;
  *) die "unknown command '${1:-}': use check or write" ;;
esac
