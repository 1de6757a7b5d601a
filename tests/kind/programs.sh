#!/usr/bin/env bash
# Builds every program of the test cluster from Go modules, and leaves them in $cache/bin. What is already built from the same
# inputs (versions, sources, compiler, flags) is not built again; an interrupted build goes on with the program it was at.
# `programs.sh control-plane` builds only what control-plane.sh starts.
set -euo pipefail
source "$(dirname "$0")/steps.sh"

cd "$kind_directory/programs"
PATH=$("$root/scripts/go.sh"):$PATH
export CGO_ENABLED=0

version_of() {
    awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' go.mod
}

kubernetes=$(version_of k8s.io/kubernetes)
helm=$(version_of helm.sh/helm/v3)
minor=${kubernetes#v1.}
minor=${minor%%.*}
component=k8s.io/component-base/version
flags="-s -w -X $component.gitVersion=$kubernetes -X $component.gitMajor=1 -X $component.gitMinor=$minor"
flags+=" -X $component.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes"
flags+=" -X helm.sh/helm/v3/internal/version.version=$helm"
# What helm takes for the cluster's version where it asks none.
for package in chartutil lint/rules; do
    flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
done

stamp=$(printf '%s\n' "$(go version)" "$flags" | stamp_of go.mod go.sum ./*/main.go)
output=$cache/programs/$stamp

# The first two are all that a control plane needs. `kube` is one file for seven programs, and the name that it is called by
# tells which: it is linked once, and is one layer in the node image.
programs=(
    etcd=go.etcd.io/etcd/server/v3
    kube=./kube
)
[ "${1:-}" = control-plane ] || programs+=(
    helm=helm.sh/helm/v3/cmd/helm
    kind=sigs.k8s.io/kind
    pause=./pause
    podnet=./podnet
    local-path-provisioner=github.com/rancher/local-path-provisioner
    coredns=./coredns
)

missing() {
    local program
    for program in "${programs[@]}"; do
        [ -x "$output/${program%%=*}" ] || printf '%s\n' "$program"
    done
}

compile() {
    go build -trimpath -buildvcs=false -ldflags "$flags" -o "$output/$1.part" "$2"
    mv "$output/$1.part" "$output/$1"
}

mkdir -p "$output"
if [ -n "$(missing)" ]; then
    exec 9>"$cache/programs.lock"
    flock 9
    for program in $(missing); do
        step "build ${program%%=*}" compile "${program%%=*}" "${program#*=}"
    done
fi
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl; do
    [ -L "$output/$name" ] || ln -sf kube "$output/$name"
done
# Those of other versions are kept for as long as somebody may still work with them.
touch "$output"
find "$cache/programs" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
# What is called by name lies in one place, whatever it was built of.
mkdir -p "$cache/bin"
for file in "$output"/*; do
    name=$(basename "$file")
    [ "${name%.part}" = "$name" ] || continue
    [ "$(readlink "$cache/bin/$name" || true)" = "../programs/$stamp/$name" ] || ln -sfn "../programs/$stamp/$name" "$cache/bin/$name"
done
