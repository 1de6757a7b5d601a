#!/usr/bin/env bash
# docker.sh up     makes sure that a Docker daemon answers and can run a privileged container; starts one where none answers
# docker.sh down   stops the daemon that `up` started, and no other, unless it has containers left
# Exit code 2 says that this machine can't run containers.
set -euo pipefail
source "$(dirname "$0")/steps.sh"

state=$cache/docker
pid_file=$state/dockerd.pid

cannot() {
    cat >&2 <<TEXT

======================================================================
 This machine cannot run containers: $*
 The tests on kind were NOT run. They need Docker, or root on Linux to
 start it. PUBSUB_SKIP_KIND=1 accepts that they are left out.
======================================================================

TEXT
    exit 2
}

# A daemon that was told to stop first stops its containers.
wait_for_the_last_one() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 0
    if grep -qs dockerd "/proc/$pid/comm"; then
        wait_until 60 "the end of the last dockerd" ended "$pid"
    fi
    rm -f "$pid_file"
}

start() {
    local runtime=()
    mkdir -p "$state"
    wait_for_the_last_one
    # kind mounts it into every node, whether or not it holds anything.
    mkdir -p /lib/modules
    # Each node has a kubelet and a containerd, and all share these limits of the kernel.
    sysctl -qw fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576 2>/dev/null || true
    # Root here may lack a capability that every privileged container asks for.
    if [ $(((0x$(awk '/^CapBnd/ { print $2 }' /proc/self/status) >> 24) & 1)) = 0 ]; then
        install -m 755 "$kind_directory/runc-lesscaps" "$state/runc-lesscaps"
        runtime=(--add-runtime "lesscaps=$state/runc-lesscaps" --default-runtime lesscaps)
    fi
    # It outlives the scripts, so it must not hold their locks (8 and 9).
    setsid nohup dockerd "${runtime[@]}" --data-root "$state/data" --exec-root /run/pubsub-docker --pidfile "$pid_file" \
        --storage-driver overlay2 --log-level warn >>"$state/dockerd.log" 2>&1 </dev/null 8>&- 9>&- &
    wait_until 60 "an answer of dockerd" docker info || {
        tail -c 2000 "$state/dockerd.log" >&2
        return 1
    }
}

# The smallest container there is: a program that does nothing, with its libraries.
probe() {
    local directory status=0
    directory=$(mktemp -d)
    mkdir -p "$directory/proc"
    for file in /usr/bin/true $(ldd /usr/bin/true | grep -o '/[^ )]*'); do
        mkdir -p "$directory$(dirname "$file")"
        cp -L "$file" "$directory$file"
    done
    tar -C "$directory" -cf - . | docker import - pubsub-kind-probe >/dev/null || status=1
    rm -rf "$directory"
    [ "$status" != 0 ] || docker run --rm --privileged --network none pubsub-kind-probe /usr/bin/true >&2 || status=1
    docker image rm -f pubsub-kind-probe >/dev/null 2>&1 || true
    return "$status"
}

up() {
    if ! docker info >/dev/null 2>&1; then
        [ "$(uname -s)" = Linux ] || cannot "Docker does not answer. Start it."
        [ "$(id -u)" = 0 ] || cannot "Docker does not answer, and only root may start it."
        command -v dockerd >/dev/null || cannot "there is no dockerd."
        step "docker daemon" start || cannot "dockerd does not start; see $state/dockerd.log."
    fi
    # A privileged container that ran once on this daemon will run again.
    local running=$state/probed
    running+=-$(docker info -f '{{.ID}}' | tr -c 'A-Za-z0-9\n' -)
    [ -e "$running" ] && return 0
    mkdir -p "$state"
    step "privileged container" probe || cannot "Docker answers, but a privileged container does not run."
    touch "$running"
}

down() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 0
    grep -qs dockerd "/proc/$pid/comm" || return 0
    [ -z "$(docker ps -q)" ] || {
        say "the docker daemon stays: it has containers"
        return 0
    }
    kill "$pid"
    wait_until 90 "the end of dockerd" ended "$pid"
}

case ${1:-} in
up) up ;;
down) step "docker daemon down" down ;;
*) fail "usage: docker.sh up|down" ;;
esac
