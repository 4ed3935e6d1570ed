#!/usr/bin/env bash
# Brings a cluster to what this checkout says, in the order that loses nothing:
#
#   deploy/apply.sh prod [simple|rate-aware|external]
#   deploy/apply.sh kind
#   deploy/apply.sh scaling simple|rate-aware|external     the last step alone
#
# 1. what nothing runs from: settings, accounts, policies, and the setup job (the database's
#    schema, topics with first offsets, subjects), which is waited for;
# 2. deployments, which roll;
# 3. what scales them.
#
# A step that fails ends it, and the pods that were there go on: migrations expand before
# they contract. Again from the start is always right.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

readonly NAMESPACE=pat--notification--be
readonly SETUP=pat--notification--be--setup--prod
readonly SETUP_WAIT_S=1800
# Deployments, their budgets and services carry what they are.
readonly NOT_YET='app.kubernetes.io/component notin (front, consumer, worker, cron, scaler)'

say() { printf 'apply: %s\n' "$*" >&2; }
die() {
  printf 'apply: error: %s\n' "$*" >&2
  exit 1
}

main() {
  local -r overlay=${1:-}
  local scaling
  case $overlay in
    prod) scaling=keda/overlays/${2:-simple} ;;
    kind) scaling=k8s/overlays/kind/keda ;;
    scaling) scaling=keda/overlays/${2:-} ;;
    *) die "what? prod, kind or scaling" ;;
  esac
  [[ -f $scaling/kustomization.yaml ]] || die "there is no $scaling: simple, rate-aware or external"
  if [[ $overlay == scaling ]]; then
    kubectl kustomize "$scaling" | apply
    return
  fi

  # A job cannot be changed, only made anew.
  kubectl delete job "$SETUP" --namespace "$NAMESPACE" --ignore-not-found --wait
  kubectl kustomize "k8s/overlays/$overlay" | apply --selector "$NOT_YET"
  await_setup
  kubectl kustomize "k8s/overlays/$overlay" | apply
  kubectl kustomize "$scaling" | apply
  local deployment
  for deployment in $(kubectl get deployments --namespace "$NAMESPACE" --output name \
    --selector app.kubernetes.io/part-of=patient-notify); do
    kubectl rollout status "$deployment" --namespace "$NAMESPACE" --timeout 15m
  done
}

# Server-side: what an autoscaler or an incident's annotation owns stays its own, what another
# overlay had said goes, and a misspelt field is refused.
apply() { kubectl apply --server-side --field-manager patient-notify --validate=strict --filename - "$@"; }

await_setup() {
  local -r until=$((SECONDS + SETUP_WAIT_S))
  local conditions
  say "waiting for job $SETUP"
  while ((SECONDS < until)); do
    conditions=$(kubectl get job "$SETUP" --namespace "$NAMESPACE" \
      --output 'jsonpath={.status.conditions[?(@.status=="True")].type}')
    case " $conditions " in
      *" Complete "*) return 0 ;;
      *" Failed "*) break ;;
    esac
    sleep 2
  done
  kubectl logs "job/$SETUP" --namespace "$NAMESPACE" --all-containers --prefix --tail 20 >&2 || true
  die "job $SETUP did not complete; nothing was rolled"
}

main "$@"
