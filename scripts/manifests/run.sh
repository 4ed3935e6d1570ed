#!/usr/bin/env bash
# Runs one of the checks of manifests with a Python that has what they need:
#
#   scripts/manifests/run.sh lint.py
#   scripts/manifests/run.sh test_manifests.py
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/tools-dir.sh
source scripts/tools-dir.sh
# shellcheck source=scripts/find-python.sh
source scripts/find-python.sh

python=$(find_python yaml jsonschema) || {
  echo "no python3 with PyYAML and jsonschema found: run scripts/install.sh check" >&2
  exit 1
}
PYTHONDONTWRITEBYTECODE=1 exec "$python" "scripts/manifests/$1" "${@:2}"
