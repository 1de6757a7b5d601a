#!/usr/bin/env bash
# Renders the chart's defaults into manifests/, for those who use kubectl alone. With a directory as argument it writes there,
# so that a test can compare.
set -euo pipefail

cd "$(dirname "$0")/.."
helm=$(scripts/helm.sh)
to=${1:-manifests}
namespace=pubsub

render() {
    # Any version will do that the chart accepts; a helm that was built from its module takes itself for very old.
    "$helm" template pubsub charts/pubsub --namespace "$namespace" --kube-version 1.34.0 --no-hooks \
        --set auth.existingSecret=pubsub-cluster --set crds.install=false
}

{
    cat <<'END'
# Pubsub with three brokers, discovery and the operator, in the namespace pubsub. Made from charts/pubsub by scripts/manifests.sh.
# manifests/README.md says what comes before it.
END
    # Labels that tell of Helm would be wrong here.
    render | sed -e '/^ *helm.sh\/chart: /d' -e 's/\(managed-by: \)Helm/\1kubectl/' -e '/^# Source: /d'
} >"$to/pubsub.yaml"

# The definition of Topic is made from the operator's types (pubsub-operator crd); the chart has a copy, because charts read no
# files but their own.
if [ "$to" = manifests ]; then
    cp manifests/crd.yaml charts/pubsub/files/crd.yaml
fi
