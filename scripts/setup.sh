#!/usr/bin/env bash
# Checks what building Pubsub needs, and installs what is missing where that is possible without asking:
# Debian packages as root, Rust components through rustup. It changes nothing when everything is there.
set -euo pipefail

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        fail "missing: $*. Install them with the package manager of this system."
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "missing: $*. Run: sudo apt-get install -y $*"
    fi
    printf 'setup: installing %s\n' "$*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
        apt-get update -qq
        apt-get install -y --no-install-recommends "$@" >/dev/null
    }
}

packages=()
command -v make >/dev/null || packages+=(make)
# SQLite and the TLS library are compiled from C sources that come with their crates.
command -v cc >/dev/null || packages+=(build-essential)
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    fail "cargo is installed but not on the PATH. Run: . \"\$HOME/.cargo/env\""
fi
command -v cargo >/dev/null || fail "Rust is missing. Install it as described at https://rustup.rs and run this again."

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
have=$(rustc --version | awk '{ print $2 }')
if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    fail "Rust $wanted or newer is needed, this is $have. Run: rustup update"
fi

components=()
cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
if [ ${#components[@]} != 0 ]; then
    command -v rustup >/dev/null || fail "missing: ${components[*]}. Install them with the tool that installed Rust."
    rustup component add "${components[@]}"
fi
