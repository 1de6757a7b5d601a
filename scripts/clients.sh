#!/usr/bin/env bash
# Installs the Python and the JavaScript client from this checkout, each with one command and outside of it, and runs their tests
# against a cluster of real brokers. Packages come from wherever pip and npm are configured to get them.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${PUBSUB_CLIENTS_CACHE:-$HOME/.cache/pubsub/clients}
python=${PYTHON:-python3}
failed=()

# Tells what is missing, and what to do about it.
missing() {
    printf 'clients: %s\n' "$1" >&2
    failed+=("$2")
}

# Returns the sum of the numbers in the pieces of the log that look like this.
count() {
    grep -oE "$1" "$log" | grep -oE '[0-9]+' | awk '{ sum += $1 } END { print sum + 0 }'
}

# Says in the words of the other tests how many passed and failed.
result() {
    printf 'test result: clients. %s passed; %s failed\n' "$1" "$2"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Of several checkouts of a machine each has its own place: an installed package is that of one checkout.
place=$cache/$(printf '%s' "$root" | cksum | cut -d ' ' -f 1)
mkdir -p "$place"
export PUBSUB_ROOT=$root
target=${CARGO_TARGET_DIR:-$root/target}
export PUBSUB_PROGRAM=${PUBSUB_PROGRAM:-$target/debug/pubsub}
cargo build --manifest-path "$root/Cargo.toml" --quiet -p pubsub-cli

test_python() {
    local venv=$place/venv
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || return
    # The checkout's version never changes while it is worked on, so that pip must be told to look again.
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$root/clients/python[test]" || return
    "$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$root/clients/python" || return
    (cd "$root/clients/python" && "$venv/bin/mypy" --cache-dir "$place/mypy" src tests) || return
    (cd "$root/clients/python" && PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -q) 2>&1 | tee "$log"
    local outcome=${PIPESTATUS[0]}
    result "$(count '[0-9]+ passed')" "$(count '[0-9]+ (failed|error)')"
    return "$outcome"
}

# One file after the other: each starts a cluster of its own.
run_javascript() {
    local file outcome=0
    cd "$1" || return
    for file in tests/*.test.js; do
        node --test "$file" || outcome=1
    done
    return "$outcome"
}

test_javascript() {
    local here=$place/javascript
    rm -rf "$here/tests"
    mkdir -p "$here"
    printf '{"private": true, "type": "module"}\n' >"$here/package.json"
    # npm would link a directory; what is tested is what a user gets.
    npm install --silent --no-audit --no-fund --no-package-lock --prefix "$here" --install-links \
        "$root/clients/javascript" 'typescript@>=5.4' '@types/node@>=18' || return
    cp -r "$root/clients/javascript/tests" "$here/tests"
    "$here/node_modules/.bin/tsc" -p "$root/clients/javascript" --outDir "$here/types" || return
    diff -r "$root/clients/javascript/types" "$here/types" || {
        printf 'clients: clients/javascript/types is out of date: run `npm run types` there\n' >&2
        return 1
    }
    run_javascript "$here" 2>&1 | tee "$log"
    local outcome=${PIPESTATUS[0]}
    result "$(count '(#|ℹ) pass [0-9]+')" "$(count '(#|ℹ) fail [0-9]+')"
    return "$outcome"
}

if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    missing "$python is not there, is older than 3.9, or has no venv: install Python (https://www.python.org/downloads)" python
elif ! test_python; then
    failed+=(python)
fi
if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then
    missing 'node or npm is not there, or older than 18: install Node (https://nodejs.org/en/download)' javascript
elif ! test_javascript; then
    failed+=(javascript)
fi
if [ ${#failed[@]} != 0 ]; then
    printf 'clients: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
