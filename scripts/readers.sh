#!/usr/bin/env bash
# Measures what many waiting readers cost: publishes to a topic of three replicas at first alone, then beside READERS (200)
# streams of server-sent events and as many long polls on one broker. SECONDS_EACH (60) may be set. Prints a line of JSON for
# each, the resident memory of each broker, and how many records the reader with the fewest got.
set -euo pipefail

each=${SECONDS_EACH:-60}
readers=${READERS:-200}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --manifest-path "$root/Cargo.toml" --release -p pubsub-cli -p pubsub-bench
pubsub=$target/release/pubsub
bench=$target/release/pubsub-bench
export PUBSUB_BROKERS=http://127.0.0.1:28181,http://127.0.0.1:28182,http://127.0.0.1:28183

directory=$(mktemp -d)
cluster=
finish() {
    [ -z "$cluster" ] || { kill "$cluster" 2>/dev/null && wait "$cluster" || true; }
    rm -rf "$directory"
}
trap finish EXIT

"$pubsub" local --data "$directory/data" --port-base 28180 --election-port-base 25100 --discovery-port 29190 --topic "" \
    >"$directory/log" 2>&1 &
cluster=$!
deadline=$((SECONDS + 60))
until "$pubsub" topic create readers --rf 3 >/dev/null 2>"$directory/error"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$cluster" 2>/dev/null; then
        cat "$directory/log" "$directory/error" >&2
        exit 1
    fi
done

resident() {
    ps -o rss=,args= --ppid "$cluster" | awk -v when="$1" '/run-broker/ { printf "%s %.1f MiB resident, ", when, $1 / 1024 } END { print "" }'
}

# One publisher, one record at a time: how long each waits is what readers may worsen.
publish() {
    printf '%-40s %s\n' "$1" "$("$bench" publish --topic readers --clients 1 --seconds "$2")"
}

follow() {
    "$bench" "$1" --topic readers --clients "$readers" --seconds $((each + 4)) --spread >"$directory/$1" &
}

printf '%s streams and %s long polls on one broker, %s processors, %s s each\n' "$readers" "$readers" "$(nproc)" "$each"
resident idle
publish "publish, nobody reads" "$each"
resident "after publishing,"
follow stream
streams=$!
follow wait
polls=$!
publish "publish, all read" "$each"
resident "with readers,"
wait "$streams" "$polls"
printf '%-40s %s\n' "streams" "$(cat "$directory/stream")" "long polls" "$(cat "$directory/wait")"
