#!/usr/bin/env bash
# Compares the Avro schemas with those of the previous main.
#
#   scripts/schemas-compatible.sh PATIENT_NOTIFY_BINARY
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/previous-main.sh
source scripts/previous-main.sh
readonly binary=$1

previous=""
previous_main schemas avro

before=$(mktemp -d)
trap 'rm -rf -- "$before"' EXIT
git archive "$previous" avro | tar -x -C "$before"
"$binary" schemas compatible --against "$before/avro"
