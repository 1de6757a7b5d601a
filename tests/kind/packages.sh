#!/usr/bin/env bash
# Installs the Debian packages that the cluster and its node image need, where that is possible without asking.
set -euo pipefail
source "$(dirname "$0")/steps.sh"

# A machine that brings its own tools and node image, or isn't Debian, is taken as it is.
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0
[ -z "${PUBSUB_NODE_IMAGE:-}" ] || exit 0

wanted=(iptables iproute2 mmdebstrap openssl curl)
# A daemon of whatever origin will do.
docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || wanted+=(docker.io)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
done
[ ${#missing[@]} != 0 ] || exit 0
[ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Run: sudo apt-get install -y ${missing[*]}"

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    }
}

step "packages" install
