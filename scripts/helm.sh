#!/usr/bin/env bash
# Makes sure that there is a helm for the chart's tests and prints where: the one of the cache, else that of the PATH, else it
# is built from its Go module into the cache.
set -euo pipefail

version=v3.19.5
bin=${PUBSUB_K8S_CACHE:-$HOME/.cache/pubsub/k8s}/bin

if [ -x "$bin/helm" ]; then
    printf '%s\n' "$bin/helm"
    exit 0
fi
if command -v helm; then
    exit 0
fi
PATH=$("$(dirname "$0")/go.sh"):$PATH
printf 'helm: building helm %s, once for this machine\n' "$version" >&2
mkdir -p "$bin"
GOBIN=$bin GOFLAGS=-trimpath CGO_ENABLED=0 go install "helm.sh/helm/v3/cmd/helm@$version"
printf '%s\n' "$bin/helm"
