#!/usr/bin/env bash
# Dashboards, rules and runbooks (docs/observability.md).
#
#   scripts/observability.sh check   are they valid, do they agree, do the alerts work?
#   scripts/observability.sh write   write what is derived: dashboards, the operator's rules
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/versions.env
source tools/versions.env
# shellcheck source=scripts/find-python.sh
source scripts/find-python.sh
# shellcheck source=scripts/tools-dir.sh
source scripts/tools-dir.sh

die() {
  printf 'observability: error: %s\n' "$*" >&2
  exit 1
}

python=$(find_python yaml) || die "no python3 with yaml found: run scripts/install.sh check"
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
