#!/usr/bin/env bash
# Builds the container image: our programs and nothing else. No base image, so nothing is pulled, and no builder: the archive is put
# together here, so that the same programs always give the same image id. Written to $CARGO_TARGET_DIR/image, and loaded into
# Docker where that answers.
# PROFILE (dist) is Cargo's, SOURCE_DATE_EPOCH (0) the time of everything inside, IMAGE the name and tag (pubsub:VERSION).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
profile=${PROFILE:-dist}
epoch=${SOURCE_DATE_EPOCH:-0}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
image=${IMAGE:-pubsub:$version}
bytes_max=$((40 * 1000 * 1000))
machine=$(uname -m)
case $machine in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$machine ;;
esac
# The C library is linked in. Naming the target keeps its flag away from what runs while building.
triple=$machine-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-$root/target}
output=$target/image
export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

say() {
    printf 'image: %s\n' "$*" >&2
}

start=$SECONDS
cargo build --quiet --profile "$profile" --target "$triple" -p pubsub-cli --features operator
say "program built in $((SECONDS - start)) s"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$output" "$work/files/etc" "$work/archive"
install -m 755 "$target/$triple/$profile/pubsub" "$work/files/pubsub"
# It is the other programs too, by the name that it is called by.
for program in broker discovery operator; do
    ln -s pubsub "$work/files/pubsub-$program"
done
install -m 644 LICENSE "$work/files/LICENSE"
# Without it the C library would ask the name server for names that /etc/hosts holds.
printf 'hosts: files dns\n' >"$work/files/etc/nsswitch.conf"
chmod 755 "$work/files" "$work/files/etc"
# A program that needs a loader would not start in an empty file system.
if readelf -l "$work/files/pubsub" | grep -q INTERP; then
    say "the program is not static"
    exit 1
fi

pack() {
    tar --sort=name --format=ustar --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" .
}

digest_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

pack "$work/files" "$work/archive/layer.tar"
layer=$(digest_of "$work/archive/layer.tar")
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
cat >"$work/config.json" <<JSON
{"architecture":"$architecture","os":"linux","created":"$created","config":{"User":"65532:65532","WorkingDir":"/","Entrypoint":["/pubsub"],"Env":["PATH=/"],"Labels":{"org.opencontainers.image.title":"pubsub","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"$created","created_by":"scripts/image.sh"}]}
JSON
config=$(digest_of "$work/config.json")
mv "$work/config.json" "$work/archive/$config.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$config" "$image" >"$work/archive/manifest.json"
archive=$output/pubsub-$version.tar
pack "$work/archive" "$archive.part"
mv "$archive.part" "$archive"

size=$(stat -c %s "$work/archive/layer.tar")
say "$image is sha256:$config, $((size / 1000)) kB"
if [ "$size" -gt "$bytes_max" ]; then
    say "more than $((bytes_max / 1000)) kB"
    exit 1
fi
if docker info >/dev/null 2>&1; then
    docker load --quiet --input "$archive" >&2
    # What had this name before has none now.
    docker image prune --force --filter label=org.opencontainers.image.title=pubsub >/dev/null
else
    say "Docker does not answer, so the image is only in $archive"
fi
