#!/usr/bin/env bash
# Asks a throw-away cluster of three real brokers whatever its own API description allows and forbids, and holds every answer to
# that description. EXAMPLES (50) requests an operation, SEED (1) and TIMEOUT (600 s in all) may be set.
# Packages come from wherever pip is configured to get them, and are kept outside of the checkout.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${PUBSUB_CLIENTS_CACHE:-$HOME/.cache/pubsub/clients}/fuzz
python=${PYTHON:-python3}
target=${CARGO_TARGET_DIR:-$root/target}
pubsub=${PUBSUB_PROGRAM:-}
if [ -z "$pubsub" ]; then
    cargo build --manifest-path "$root/Cargo.toml" --quiet -p pubsub-cli
    pubsub=$target/debug/pubsub
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
[ -x "$venv/bin/schemathesis" ] || "$venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5'

directory=$(mktemp -d)
cluster=
finish() {
    [ -z "$cluster" ] || { kill "$cluster" 2>/dev/null && wait "$cluster" || true; }
    rm -rf "$directory"
}
trap finish EXIT

# Returns a port from which on ten are free now, below those that the system gives to others.
free_ports() {
    "$python" -c '
import random, socket
def free(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0
while True:
    base = random.randrange(20000, 32000, 10)
    if all(free(base + more) for more in range(10)):
        print(base)
        break
'
}

base=$(free_ports)
"$pubsub" local --data "$directory/data" --port-base "$base" --election-port-base "$((base + 4))" \
    --discovery-port "$((base + 9))" --topic fuzz --no-restart >"$directory/log" 2>&1 &
cluster=$!
deadline=$((SECONDS + 60))
until grep -q 'All brokers are ready' "$directory/log"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$cluster" 2>/dev/null; then
        cat "$directory/log" >&2
        exit 1
    fi
    sleep 0.2
done

outcome=0
cd "$directory"
PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=$root/tests/fuzz/hooks.py timeout "${TIMEOUT:-600}" \
    "$venv/bin/schemathesis" run "http://127.0.0.1:$((base + 1))/v1/openapi.json" \
    --checks status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,no_fault \
    --phases fuzzing --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" --exclude-path '/topics/{topic}/stream' \
    --request-timeout 70 --generation-database none --continue-on-failure --no-color || outcome=$?
# A handler that panics is answered for, so that only the log tells where.
if grep -rh 'panicked at' "$directory/data/log"; then
    outcome=1
fi
kill -0 "$cluster" 2>/dev/null || {
    printf 'fuzz: the cluster ended\n' >&2
    outcome=1
}
exit "$outcome"
