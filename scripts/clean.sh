#!/usr/bin/env bash
# Deletes what the development stack left.
#
#   scripts/clean.sh data [DATA_DIR]   data and logs of stacks that are not running
#   scripts/clean.sh tools             the installed servers and tools
#
# A folder is deleted only when it carries the mark that we put there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/tools-dir.sh
source scripts/tools-dir.sh

readonly MARKER=.patient-notify-stack

clean_data() {
  local folder
  for folder in /var/tmp/patient-notify-* "$(dirname "$TOOLS_DIR")"/data/* "$@"; do
    [[ -n $folder && -f $folder/$MARKER && -O $folder/$MARKER ]] || continue
    # A running stack holds a lock on its mark.
    if flock --nonblock "$folder/$MARKER" rm -rf -- "$folder"; then
      printf 'clean: deleted %s\n' "$folder"
    else
      printf 'clean: %s is in use and stays\n' "$folder" >&2
    fi
  done
}

clean_tools() {
  [[ -e $TOOLS_DIR/.lock ]] || return 0
  local version
  for version in "$TOOLS_DIR"/*/.installed; do
    [[ ! -e $version ]] || rm -rf -- "$(dirname "$version")"
  done
  rm -rf -- "$TOOLS_DIR"/.new-* "$TOOLS_DIR"/.maven-* "$TOOLS_DIR/.cache" "$TOOLS_DIR/java" "$TOOLS_DIR/.lock"
  # Whatever else is in there is not ours.
  rmdir --ignore-fail-on-non-empty -- "$TOOLS_DIR"
  printf 'clean: deleted the downloads in %s\n' "$TOOLS_DIR"
}

case ${1:-} in
  data) clean_data "${@:2}" ;;
  tools) clean_tools ;;
  *)
    printf 'usage: scripts/clean.sh data [DATA_DIR] | tools\n' >&2
    exit 64
    ;;
esac
