#!/usr/bin/env bash
# Measures a running cluster with `pubsub bench`, built for release. Start one first, e.g. with `make run` in another terminal.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --manifest-path "$root/Cargo.toml" --release -p pubsub-cli
exec "$target/release/pubsub" bench
