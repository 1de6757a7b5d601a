#!/usr/bin/env bash
# Sets everything up, runs the suite on kind, saves all logs, and cleans up, also after a failure.
# Arguments go to the test program, e.g. a part of a test's name. PUBSUB_KIND_KEEP=1 uses a cluster that is up and keeps it;
# PUBSUB_KIND_LOGS (target/kind-logs) is where logs go; PUBSUB_SKIP_KIND=1 accepts a machine that can't run containers.
set -uo pipefail
source "$(dirname "$0")/steps.sh"

logs=${PUBSUB_KIND_LOGS:-$root/target/kind-logs}

status=0
"$kind_directory/packages.sh" && "$kind_directory/docker.sh" up || status=2
if [ "$status" != 0 ] && [ "${PUBSUB_SKIP_KIND:-0}" = 1 ]; then
    say "left out, as PUBSUB_SKIP_KIND=1 allows"
    exit 0
fi
[ "$status" = 0 ] || exit "$status"

finish() {
    step "save logs" "$kind_directory/logs.sh" "$logs"
    [ "${PUBSUB_KIND_KEEP:-0}" = 1 ] || "$kind_directory/cluster.sh" down
}

suite() {
    (cd "$root" && cargo test -p pubsub-tests --test kind -- --ignored --test-threads 1 --nocapture "$@")
}

build_suite() {
    (cd "$root" && cargo test --quiet -p pubsub-tests --test kind --no-run)
}

if [ "${PUBSUB_KIND_KEEP:-0}" != 1 ] && [ -x "$cache/bin/kind" ]; then
    "$kind_directory/cluster.sh" down
fi
step "image" "$root/scripts/image.sh" || exit 1
step "build the suite" build_suite || exit 1
trap finish EXIT
step "cluster" "$kind_directory/cluster.sh" up >/dev/null || exit 1
"$kind_directory/cluster.sh" load || exit 1
use_programs
export KUBECONFIG=$kubeconfig
step "suite" suite "$@"
status=$?
# Faults may make some. They were refused, which is what the rule is for, and their number is worth knowing.
[ "${PUBSUB_KIND_HERMETIC:-1}" != 1 ] || say "packets kept on this machine: $("$kind_directory/cluster.sh" escaped)"
exit "$status"
