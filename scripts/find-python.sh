# shellcheck shell=bash
# Sourced: find_python MODULE... prints a python3 that has these modules. Debian's packages
# serve Debian's own python3, which need not be the first on PATH.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]' "$@" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}
