# shellcheck shell=bash
# Sourced: sets TOOLS_DIR, where servers and tools are kept between runs. The binary
# computes the same folder (src/dev/tools.rs).
if [[ -n ${PATIENT_NOTIFY_TOOLS_DIR:-} ]]; then
  TOOLS_DIR=$PATIENT_NOTIFY_TOOLS_DIR
elif ((EUID == 0)); then
  # Not under /root: PostgreSQL runs as another user, who cannot enter it.
  TOOLS_DIR=/var/cache/patient-notify/tools
else
  TOOLS_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/patient-notify/tools
fi
export TOOLS_DIR
