#!/usr/bin/env bash
# Builds the `pubsub` program and starts a local cluster with it. First argument: 1 for a release build, 0 for a quick one.
set -euo pipefail

release=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
profile=()
directory=debug
if [ "$release" != 0 ]; then
    profile=(--release)
    directory=release
fi
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --manifest-path "$root/Cargo.toml" "${profile[@]}" -p pubsub-cli
exec "$target/$directory/pubsub" local "$@"
