#!/usr/bin/env bash
# Compares the gRPC contracts with those of the previous main: what was served stays
# served, down to the source that callers generate.
#
#   scripts/protos-compatible.sh BUF
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/previous-main.sh
source scripts/previous-main.sh
readonly buf=$1

previous=""
previous_main protos proto

# A folder rather than a commit of .git: buf would need the whole history.
before=$(mktemp -d)
trap 'rm -rf -- "$before"' EXIT
git archive "$previous" proto buf.yaml | tar -x -C "$before"
"$buf" breaking --against "$before"
