#!/usr/bin/env bash
# Makes sure that there is a Go which can compile the programs of the test clusters, and prints the directory that it is in: the
# one of the PATH, else one that an earlier call made, else the system's package (as root, on Debian and what comes of it); and if
# that one is too old, it fetches a newer one as a module, as newer ones would do by themselves.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${PUBSUB_K8S_CACHE:-$HOME/.cache/pubsub/k8s}
wanted=$(awk '$1 == "go" { print $2; exit }' "$root/tests/kind/programs/go.mod")
# It compiles whatever asks for itself or less.
fetched=$cache/go$wanted

say() {
    printf 'go: %s\n' "$*" >&2
}

# Whether a program is a Go that is new enough. It must not fetch another one to answer.
enough() {
    local have
    have=$(cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    have=${have#go}
    [ "$(printf '%s\n%s\n' "$wanted" "${have%% *}" | sort -V | head -n 1)" = "$wanted" ]
}

install_package() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    say "installing the package golang-go"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends golang-go ca-certificates >/dev/null 2>&1 || {
        apt-get update -qq && apt-get install -y -qq --no-install-recommends golang-go ca-certificates >/dev/null
    }
}

fetch() {
    local modules module status=0
    case $(uname -m) in
    x86_64) module=linux-amd64 ;;
    aarch64) module=linux-arm64 ;;
    *) return 1 ;;
    esac
    module=golang.org/toolchain@v0.0.1-go$wanted.$module
    say "fetching Go $wanted with $(command -v go)"
    modules=$(mktemp -d)
    (cd / && GOPATH=$modules GOMODCACHE=$modules GOFLAGS=-modcacherw go mod download "$module") || status=$?
    if [ "$status" = 0 ]; then
        # Files of modules can't be executed.
        chmod +x "$modules/$module"/bin/* "$modules/$module"/pkg/tool/*/* || status=$?
        rm -rf "$fetched"
        mkdir -p "$cache"
        mv "$modules/$module" "$fetched" || status=$?
    fi
    rm -rf "$modules"
    return "$status"
}

found() {
    printf '%s\n' "$1"
    exit 0
}

if command -v go >/dev/null && enough go; then found "$(dirname "$(command -v go)")"; fi
if enough "$fetched/bin/go"; then found "$fetched/bin"; fi
command -v go >/dev/null || install_package || true
if command -v go >/dev/null; then
    if enough go; then found "$(dirname "$(command -v go)")"; fi
    if fetch && enough "$fetched/bin/go"; then found "$fetched/bin"; fi
fi
say "Go $wanted or newer is missing: helm, etcd and Kubernetes are compiled with it for the tests. Install it from https://go.dev/dl and run this again."
exit 1
