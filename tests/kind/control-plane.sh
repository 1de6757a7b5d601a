#!/usr/bin/env bash
# A Kubernetes API without a cluster: etcd and kube-apiserver on loopback, for tests that need no pods. Several may run side by
# side, each in a directory of its own. No controllers run, so nothing is garbage collected and no namespace ends.
#   control-plane.sh up DIRECTORY      starts it and prints the path of its kubeconfig
#   control-plane.sh down DIRECTORY    stops it and removes the directory
set -euo pipefail
source "$(dirname "$0")/steps.sh"

verb=${1:-}
directory=${2:-}
[ -n "$directory" ] || fail "usage: control-plane.sh up|down DIRECTORY"

# Ends what a pid file names, if it still is the program that wrote it.
end() {
    local pid
    pid=$(cat "$directory/$1.pid" 2>/dev/null) || return 0
    grep -qs "$directory" "/proc/$pid/cmdline" || return 0
    kill "$2" "$pid" 2>/dev/null || return 0
    wait_until 20 "the end of $1" ended "$pid"
}

# Nothing in the directory is worth an orderly end. One that is not a control plane's is left alone.
down() {
    [ -n "$(ls -A "$directory" 2>/dev/null)" ] || return 0
    [ -e "$directory/tokens.csv" ] || fail "$directory is not a control plane's directory"
    end kube-apiserver -KILL
    end etcd -KILL
    rm -rf "$directory"
}

# Prints a port that nobody listens on. Below the range that the kernel hands out by itself, so that no client takes it meanwhile.
free_port() {
    local port
    while true; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s' "$port"
}

start() {
    local name=$1
    shift
    setsid nohup "$cache/bin/$name" "$@" >"$directory/$name.log" 2>&1 </dev/null 9>&- &
    printf '%s' "$!" >"$directory/$name.pid"
    # The shell need not tell how it ended.
    disown
}

# ready NAME COMMAND...: waits for the program to answer, but not for one that has ended.
ready() {
    local pid
    pid=$(cat "$directory/$1.pid")
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return 0
        ! ended "$pid" || return 1
        sleep 0.1
    done
    return 1
}

keys() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$directory/accounts.key" 2>/dev/null
    # Rust's TLS, unlike that of Go, takes no authority's certificate for a server's.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
        -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout "$directory/server.key" -out "$directory/server.crt" 2>/dev/null
    token=$(openssl rand -hex 16)
    printf '%s,admin,admin,system:masters\n' "$token" >"$directory/tokens.csv"
}

start_etcd() {
    local client peer
    client=http://127.0.0.1:$(free_port)
    peer=http://127.0.0.1:$(free_port)
    etcd_url=$client
    start etcd --data-dir "$directory/etcd" --unsafe-no-fsync --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
}

start_apiserver() {
    local port
    port=$(free_port)
    cat >"$directory/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", certificate-authority: "$directory/server.crt"}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
YAML
    start kube-apiserver --etcd-servers="$etcd_url" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$port" \
        --tls-cert-file="$directory/server.crt" --tls-private-key-file="$directory/server.key" \
        --service-account-key-file="$directory/accounts.key" --service-account-signing-key-file="$directory/accounts.key" \
        --service-account-issuer=https://localhost --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC \
        --token-auth-file="$directory/tokens.csv" --disable-admission-plugins=ServiceAccount --allow-privileged
}

# A port may be taken between the look and the start; then everything is tried again on others.
up() {
    local attempt
    for attempt in 1 2 3; do
        down
        mkdir -p "$directory"
        keys
        start_etcd
        start_apiserver
        ready kube-apiserver "$cache/bin/kubectl" --kubeconfig "$directory/kubeconfig" get --raw=/readyz && return 0
        say "attempt $attempt failed"
        tail -n 3 "$directory/etcd.log" "$directory/kube-apiserver.log" >&2
    done
    return 1
}

case $verb in
up)
    command -v openssl >/dev/null || fail "openssl is missing"
    "$kind_directory/programs.sh" control-plane
    # Absolute, since the kubeconfig names files in it.
    mkdir -p "$directory"
    directory=$(cd "$directory" && pwd)
    step "control plane up" up
    printf '%s\n' "$directory/kubeconfig"
    ;;
down)
    [ -d "$directory" ] || exit 0
    directory=$(cd "$directory" && pwd)
    down
    ;;
*) fail "usage: control-plane.sh up|down DIRECTORY" ;;
esac
