# shellcheck shell=bash
# Sourced: previous_main NAME FOLDER sets `previous` to the commit that contracts are compared
# with: where this branch left main; on main itself, the commit before. Where there
# is none, it says so for the check NAME and ends the script without an error.

previous_main() {
  local -r name=$1 folder=$2
  local head base="" main
  head=$(git rev-parse --verify --quiet HEAD) || not_compared "$name" "this is not a git repository with a commit"
  for main in origin/main main; do
    if base=$(git merge-base HEAD "$main" 2>/dev/null) && [[ $base != "$head" ]]; then
      break
    fi
    base=""
  done
  [[ -n $base ]] || base=$(git rev-parse --verify --quiet HEAD~1) ||
    not_compared "$name" "there is no earlier commit here (a shallow clone?)"
  git cat-file -e "$base:$folder" 2>/dev/null || not_compared "$name" "commit ${base:0:9} has no $folder"
  printf '%s: comparing with commit %s\n' "$name" "${base:0:9}" >&2
  # For whoever sources this.
  # shellcheck disable=SC2034
  previous=$base
}

not_compared() {
  printf '%s: NOT compared: %s\n' "$1" "$2" >&2
  exit 0
}
