#!/usr/bin/env bash
# test.sh [--quick] [NAME]   sets everything up, runs the suite on kind, saves logs, and cleans up, also after a failure
# NAME is a part of a test's name; --quick leaves out what takes minutes, and saves logs only after a failure.
# PUBSUB_KIND_CLUSTER (pubsub-test) names the cluster. PUBSUB_KIND_KEEP=1 uses one that is up and keeps it;
# PUBSUB_KIND_LOGS (target/kind-logs) is where logs go; PUBSUB_SKIP_KIND=1 accepts a machine that can't run containers.
set -uo pipefail
# Not the one of `make kind-up`, which somebody may be working with.
export PUBSUB_KIND_CLUSTER=${PUBSUB_KIND_CLUSTER:-pubsub-test}
source "$(dirname "$0")/steps.sh"

logs=${PUBSUB_KIND_LOGS:-$root/target/kind-logs}
quick=0
tests=("$@")
# A run that hangs must end while there is still time to save logs.
suite_seconds_max=3000
if [ "${1:-}" = --quick ]; then
    quick=1
    tests=(--skip long:: "${@:2}")
    suite_seconds_max=1500
fi

# Held by all that this run starts, so that the next one begins only when the last test has ended, whatever ended this script.
exec 8>"$cache/kind-test.lock"
if ! flock -n 8; then
    say "waiting for the end of another run"
    flock -w 3600 8 || fail "another run did not end within an hour; fuser $cache/kind-test.lock names its processes"
fi

status=0
"$kind_directory/packages.sh" && "$kind_directory/docker.sh" up || status=$?
if [ "$status" != 0 ]; then
    [ "$status" = 2 ] && [ "${PUBSUB_SKIP_KIND:-0}" = 1 ] || exit "$status"
    say "left out, as PUBSUB_SKIP_KIND=1 allows"
    exit 0
fi

suite_pid=
finish() {
    trap - EXIT INT TERM
    if [ -n "$suite_pid" ]; then
        kill "$suite_pid" 2>/dev/null
        wait "$suite_pid" 2>/dev/null
    fi
    if [ "$quick" = 0 ] || [ "$status" != 0 ]; then
        step "save logs" timeout --foreground 300 "$kind_directory/logs.sh" "$logs"
    fi
    if [ "${PUBSUB_KIND_KEEP:-0}" != 1 ]; then
        "$kind_directory/cluster.sh" down
        "$kind_directory/docker.sh" down
    fi
    exit "$status"
}

# In the background, so that a signal reaches this script at once; `timeout` ends all that the suite has started.
suite() {
    (cd "$root" && exec timeout --kill-after 30 "$suite_seconds_max" cargo test -p pubsub-tests --test kind -- --ignored --test-threads 1 --nocapture "${tests[@]}") &
    suite_pid=$!
    wait "$suite_pid"
    status=$?
    suite_pid=
    [ "$status" != 124 ] || say "the suite did not end within $suite_seconds_max s"
    return "$status"
}

build_suite() {
    (cd "$root" && cargo test --quiet -p pubsub-tests --test kind --no-run)
}

set_up() {
    step "image" "$root/scripts/image.sh" &&
        step "build the suite" build_suite &&
        step "cluster" "$kind_directory/cluster.sh" up >/dev/null &&
        "$kind_directory/cluster.sh" load
}

trap 'status=130; finish' INT TERM
trap finish EXIT
# What a run left that was killed.
[ "${PUBSUB_KIND_KEEP:-0}" = 1 ] || "$kind_directory/cluster.sh" down || exit 1
status=1
set_up || exit 1
status=0
use_programs
export KUBECONFIG=$kubeconfig
step "suite" suite
# Faults may make some. They were refused, which is what the rule is for, and their number is worth knowing.
[ "${PUBSUB_KIND_HERMETIC:-1}" != 1 ] || say "packets kept on this machine: $("$kind_directory/cluster.sh" escaped)"
exit "$status"
