#!/usr/bin/env bash
# Starts a cluster of three brokers on ports of its own, built for release, and measures how fast records go in and come out.
# SECONDS_EACH (3), ROUNDS (3) and BYTES (100 each) may be set. Every row prints one line of JSON a round: compare medians, and
# compare programs only when they were measured in turns in the same minutes. Every acknowledged record is synced by all replicas.
set -euo pipefail

each=${SECONDS_EACH:-3}
rounds=${ROUNDS:-3}
bytes=${BYTES:-100}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --manifest-path "$root/Cargo.toml" --release -p pubsub-cli -p pubsub-bench
pubsub=$target/release/pubsub
bench=$target/release/pubsub-bench
export PUBSUB_BROKERS=http://127.0.0.1:28081,http://127.0.0.1:28082,http://127.0.0.1:28083

directory=$(mktemp -d)
cluster=
finish() {
    [ -z "$cluster" ] || { kill "$cluster" 2>/dev/null && wait "$cluster" || true; }
    rm -rf "$directory"
}
trap finish EXIT

"$pubsub" local --data "$directory/data" --port-base 28080 --election-port-base 25000 --discovery-port 29090 --topic "" \
    >"$directory/log" 2>&1 &
cluster=$!
deadline=$((SECONDS + 60))
until "$pubsub" topic create rf3 --rf 3 >/dev/null 2>"$directory/error"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$cluster" 2>/dev/null; then
        cat "$directory/log" "$directory/error" >&2
        exit 1
    fi
done
"$pubsub" topic create rf1 --rf 1 >/dev/null

resident() {
    ps -o rss=,args= --ppid "$cluster" | awk -v when="$1" '/run-broker/ { printf "%s %.1f MiB resident, ", when, $1 / 1024 } END { print "" }'
}

row() {
    local name=$1
    shift
    printf '%-34s %s\n' "$name" "$("$bench" "$@" --brokers http://127.0.0.1:28081 --bytes "$bytes" --seconds "$each")"
}

printf 'records of %s bytes, 3 brokers, %s processors, %s s a row\n' "$bytes" "$(nproc)" "$each"
resident idle
for round in $(seq "$rounds"); do
    printf 'round %s\n' "$round"
    for topic in rf3 rf1; do
        row "publish $topic, 1 client" publish --topic "$topic" --clients 1
        row "publish $topic, 64 clients" publish --topic "$topic" --clients 64
        row "publish $topic, HTTP/2, 4 x 64" publish --topic "$topic" --clients 4 --streams 64
        row "bulk $topic, 4 clients x 1000" bulk --topic "$topic" --clients 4
    done
    row "read rf3, 8 clients x 1000" poll --topic rf3 --clients 8
done
resident loaded
