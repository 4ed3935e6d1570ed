#!/usr/bin/env bash
# Compares the Avro schemas with those of the previous main.
#
#   scripts/schemas-compatible.sh PATIENT_NOTIFY_BINARY
#
# "Previous" is where this branch left main; on main itself, the commit before.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly binary=$1

skip() {
  printf 'schemas: NOT compared: %s\n' "$*" >&2
  exit 0
}

head=$(git rev-parse --verify --quiet HEAD) || skip "this is not a git repository with a commit"
base=""
for main in origin/main main; do
  if base=$(git merge-base HEAD "$main" 2>/dev/null) && [[ $base != "$head" ]]; then
    break
  fi
  base=""
done
[[ -n $base ]] || base=$(git rev-parse --verify --quiet HEAD~1) ||
  skip "there is no earlier commit here (a shallow clone?)"
git cat-file -e "$base:avro" 2>/dev/null || skip "commit ${base:0:9} has no schemas"

before=$(mktemp -d)
trap 'rm -rf -- "$before"' EXIT
git archive "$base" avro | tar -x -C "$before"
printf 'schemas: comparing with commit %s\n' "${base:0:9}" >&2
"$binary" schemas compatible --against "$before/avro"
