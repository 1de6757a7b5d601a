#!/usr/bin/env bash
# Runs every check of the project, one named stage after the other, and ends with the number of tests that passed and failed.
# `scripts/test.sh lint` stops before the tests.
set -uo pipefail

cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed_stages=()

stage() {
    local name=$1 start=$SECONDS outcome=ok
    shift
    printf '\n== %s\n' "$name"
    "$@" || {
        outcome=FAILED
        failed_stages+=("$name")
    }
    printf '== %s: %s in %s s\n' "$name" "$outcome" "$((SECONDS - start))"
}

tests() {
    cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
}

# Compiled from source the first time, which takes minutes.
kubernetes_api() {
    [ "${PUBSUB_SKIP_KUBERNETES:-0}" = 1 ] || tests/kind/programs.sh control-plane
}

operator() {
    if [ "${PUBSUB_SKIP_KUBERNETES:-0}" = 1 ]; then
        printf 'left out, as PUBSUB_SKIP_KUBERNETES=1 allows\n'
        return
    fi
    cargo test -p pubsub-tests --test operator -- --ignored 2>&1 | tee -a "$log"
}

clients() {
    scripts/clients.sh 2>&1 | tee -a "$log"
}

rustdoc() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
}

licences() {
    cargo deny --offline check licenses bans sources
}

stage format cargo fmt --all --check
stage lints cargo clippy --workspace --all-targets --quiet -- -D warnings
stage docs rustdoc
if [ -z "${CI:-}" ] && cargo deny --version >/dev/null 2>&1; then
    stage licences licences
fi

if [ "${1:-}" != lint ]; then
    # Tests start the real programs, and must not find those of an older build.
    stage programs cargo build --workspace --bins --quiet
    stage helm scripts/helm.sh
    stage tests tests
    stage "Kubernetes API" kubernetes_api
    stage operator operator
    stage clients clients
    totals=$(awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed", passed, failed }' "$log")
fi

echo
if [ ${#failed_stages[@]} != 0 ]; then
    printf 'failed: %s\n' "${failed_stages[*]}"
fi
[ "${1:-}" = lint ] || printf '%s\n' "$totals"
[ ${#failed_stages[@]} = 0 ]
