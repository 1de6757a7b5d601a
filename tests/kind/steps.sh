# What the scripts beside this one share: where things are kept, and how a step tells its name and its seconds.
# It is read with `source`, so it sets nothing but names.

kind_directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Outside the checkout, so that every checkout of a machine builds the cluster's programs once.
cache=${PUBSUB_K8S_CACHE:-$HOME/.cache/pubsub/k8s}
cluster=${PUBSUB_KIND_CLUSTER:-pubsub}
kubeconfig=$cache/$cluster.kubeconfig
root=$(cd "$kind_directory/../.." && pwd)
# What scripts/image.sh builds.
image=pubsub:$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
mkdir -p "$cache"

say() {
    printf 'kind: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# step NAME COMMAND...: runs the command, and says how many seconds it took and how it ended. Nothing may stand between it and
# `set -e`: then a function that is a step ends at its first failure, and the script with it.
step() {
    local began status tenths
    doing=$1
    shift
    began=$(date +%s%N)
    "$@"
    status=$?
    tenths=$((($(date +%s%N) - began) / 100000000))
    say "$(printf '%-30s %5d.%d s  %s' "$doing" $((tenths / 10)) $((tenths % 10)) "$([ "$status" = 0 ] && echo ok || echo "FAILED ($status)")")"
    return "$status"
}

doing=
set -E
trap '[ -z "$doing" ] || say "$doing: FAILED"' ERR

# stamp_of FILE...: one short name for the content of all these files and of standard input.
stamp_of() {
    { cat "$@" -; } | sha256sum | cut -c 1-16
}

# wait_until SECONDS WHAT COMMAND...: repeats a quick command until it succeeds.
wait_until() {
    local limit=$1 what=$2
    local deadline=$((SECONDS + limit))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || {
            say "not within $limit s: $what"
            return 1
        }
        sleep 0.1
    done
}

# Whether a process has ended, even if nobody has taken notice.
ended() {
    [ ! -e "/proc/$1" ] || grep -qs '^State:.Z' "/proc/$1/status"
}

# Puts the programs that programs.sh built first on the PATH, but where a stock node image and tools of the machine are asked for.
use_programs() {
    if [ -n "${PUBSUB_NODE_IMAGE:-}" ]; then
        for program in kind kubectl helm; do
            command -v "$program" >/dev/null || fail "PUBSUB_NODE_IMAGE is set, but $program is not on the PATH"
        done
        return 0
    fi
    case ":$PATH:" in
    *":$cache/bin:"*) ;;
    *) export PATH=$cache/bin:$PATH ;;
    esac
}
