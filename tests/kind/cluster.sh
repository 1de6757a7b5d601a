#!/usr/bin/env bash
# cluster.sh up        makes everything that a kind cluster needs, then the cluster; keeps one that is already up
# cluster.sh load      loads the image into every node
# cluster.sh escaped   prints how many packets of the cluster tried to leave this machine and were refused
# cluster.sh down      removes the cluster, also one that is half made, and what no other cluster needs
# PUBSUB_KIND_CLUSTER (pubsub) names it, PUBSUB_NODE_IMAGE takes a stock node image and the kind, kubectl and helm of the PATH,
# PUBSUB_KIND_HERMETIC=0 lets the cluster's packets leave this machine.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
use_programs

network=pubsub-kind
bridge=pubsub-kind0
export KIND_EXPERIMENTAL_DOCKER_NETWORK=$network
export KUBECONFIG=$kubeconfig
rule=(DOCKER-USER -i "$bridge" ! -o "$bridge" -j REJECT)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# A network of our own, with a bridge that a rule can name.
make_network() {
    docker network inspect "$network" >/dev/null 2>&1 ||
        docker network create --driver bridge -o com.docker.network.bridge.name="$bridge" "$network" >/dev/null
}

# A test cluster breaks networks on purpose, and a Service's address means something else outside it: its packets stay here.
# This must hold before the first node starts.
seal() {
    [ "${PUBSUB_KIND_HERMETIC:-1}" = 1 ] || return 0
    as_root iptables -w -C "${rule[@]}" 2>/dev/null || as_root iptables -w -I "${rule[@]}" ||
        fail "iptables can't be told to keep the cluster's packets on this machine. PUBSUB_KIND_HERMETIC=0 goes without."
}

escaped() {
    as_root iptables -w -nvxL DOCKER-USER | awk -v bridge="$bridge" '$3 == "REJECT" && $6 == bridge { print $1 }'
}

exists() {
    kind get clusters 2>/dev/null | grep -qx "$cluster"
}

# Whether the cluster is of this image and answers with all nodes.
usable() {
    local nodes
    exists || return 1
    [ "$(docker inspect -f '{{.Config.Image}}' "$cluster-control-plane" 2>/dev/null)" = "$1" ] || return 1
    nodes=$(kubectl get nodes --request-timeout 5s -o jsonpath='{.items[*].status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) || return 1
    [ "$nodes" = "True True True True" ]
}

# By what the kind program writes on its containers, so that it takes neither that program nor a whole cluster.
remove() {
    local containers
    containers=$(docker ps -aq --filter "label=io.x-k8s.kind.cluster=$cluster")
    # shellcheck disable=SC2086 # one word each
    [ -z "$containers" ] || docker rm -f -v $containers >/dev/null
    rm -f "$kubeconfig"
    if docker network inspect "$network" >/dev/null 2>&1; then
        # Another cluster may be in it.
        docker network rm "$network" >/dev/null 2>&1 || return 0
    fi
    while as_root iptables -w -D "${rule[@]}" 2>/dev/null; do :; done
}

create() {
    kind create cluster -q --name "$cluster" --config "$kind_directory/cluster.yaml" --image "$1" --wait 180s >&2 2>&1
}

settled() {
    kubectl wait --for=condition=Ready node --all --timeout=180s >/dev/null
    kubectl -n kube-system wait --for=condition=Ready pod --all --timeout=180s >/dev/null
    kubectl -n local-path-storage rollout status deployment/local-path-provisioner --timeout=180s >/dev/null
}

up() {
    local node_image
    "$kind_directory/packages.sh"
    "$kind_directory/docker.sh" up
    [ -n "${PUBSUB_NODE_IMAGE:-}" ] || "$kind_directory/programs.sh"
    use_programs
    node_image=$("$kind_directory/node-image.sh")
    make_network
    step "keep packets here" seal
    if ! usable "$node_image"; then
        ! exists || step "remove an old cluster" remove
        # The count begins with the cluster.
        [ "${PUBSUB_KIND_HERMETIC:-1}" != 1 ] || as_root iptables -w -Z DOCKER-USER
        step "create cluster" create "$node_image"
    fi
    step "nodes, DNS and storage" settled
    printf 'export KUBECONFIG=%s\n' "$kubeconfig"
}

load() {
    kind load docker-image -q --name "$cluster" "$1" >/dev/null
}

case ${1:-} in
up) up ;;
load) step "load image" load "$image" ;;
escaped) escaped ;;
down) step "remove cluster" remove ;;
*) fail "usage: cluster.sh up|load|escaped|down" ;;
esac
