#!/usr/bin/env bash
# logs.sh DIRECTORY   saves what a failed test is explained by: events, objects, the log of every container, and of every node
set -uo pipefail
source "$(dirname "$0")/steps.sh"
use_programs
export KUBECONFIG=$kubeconfig

directory=${1:?the directory to write to}
rm -rf "$directory/pods" "$directory/nodes"
mkdir -p "$directory/pods" "$directory/nodes"

save() {
    local file=$1
    shift
    timeout 30 "$@" >"$directory/$file" 2>&1
}

save events.txt kubectl get events -A --sort-by=.lastTimestamp -o wide
save objects.txt kubectl get nodes,pods,statefulsets,deployments,services,endpointslices,pvc,pv,pdb,networkpolicies,jobs,leases -A -o wide
save topics.yaml kubectl get topics.pubsub.dev -A -o yaml
save pods.txt kubectl describe pods -A
kubectl get pods -A --request-timeout 20s -o jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{"\n"}{end}' |
    while read -r namespace pod; do
        save "pods/$namespace.$pod.txt" kubectl -n "$namespace" logs "$pod" --all-containers --prefix --timestamps </dev/null
        # The run before the last restart, if there was one.
        kubectl -n "$namespace" logs "$pod" --all-containers --prefix --previous >"$directory/pods/$namespace.$pod.previous.txt" 2>/dev/null </dev/null ||
            rm -f "$directory/pods/$namespace.$pod.previous.txt"
    done
for node in $(kind get nodes --name "$cluster" 2>/dev/null); do
    save "nodes/$node.txt" docker exec "$node" journalctl --no-pager
done
save refused-packets.txt "$kind_directory/cluster.sh" escaped
say "logs are in $directory"
