#!/usr/bin/env bash
# Starts a cluster of three brokers on ports of its own, built for release, and measures how fast records go in and come out.
# RECORDS (200000) and BYTES (100 each) may be set. Figures depend on the disk: every acknowledged record is synced three times.
set -euo pipefail

records=${RECORDS:-200000}
bytes=${BYTES:-100}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --manifest-path "$root/Cargo.toml" --release -p pubsub-cli
pubsub=$target/release/pubsub
export PUBSUB_BROKERS=http://127.0.0.1:28081,http://127.0.0.1:28082,http://127.0.0.1:28083

directory=$(mktemp -d)
cluster=
finish() {
    [ -z "$cluster" ] || { kill "$cluster" 2>/dev/null && wait "$cluster" || true; }
    rm -rf "$directory"
}
trap finish EXIT

"$pubsub" local --data "$directory/data" --port-base 28080 --election-port-base 25000 --discovery-port 29090 \
    >"$directory/log" 2>&1 &
cluster=$!
deadline=$((SECONDS + 60))
until "$pubsub" topic create bench --rf 3 >/dev/null 2>"$directory/error"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$cluster" 2>/dev/null; then
        cat "$directory/log" "$directory/error" >&2
        exit 1
    fi
done

value=$(printf "%${bytes}s" | tr ' ' x)
yes "$value" | head -n "$records" >"$directory/lines" || true

measure() {
    local name=$1 start=$EPOCHREALTIME
    shift
    "$@" >"$directory/out" 2>"$directory/error" || { cat "$directory/error" >&2 && exit 1; }
    awk -v name="$name" -v n="$records" -v a="$start" -v b="$EPOCHREALTIME" \
        'BEGIN { printf "%-32s %9.0f records/s  (%d in %.2f s)\n", name, n / (b - a), n, b - a }'
}

printf '%s records of %s bytes, 3 brokers, replication factor 3, on %s processors\n' "$records" "$bytes" "$(nproc)"
measure "publish, acks=all" "$pubsub" publish bench --file "$directory/lines"
measure "subscribe from the beginning" "$pubsub" subscribe bench --from earliest --max "$records"
