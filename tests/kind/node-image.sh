#!/usr/bin/env bash
# Makes sure that the node image is there, and prints its name. With PUBSUB_NODE_IMAGE it is that one, pulled if need be; otherwise
# it is built from Debian packages and the programs that programs.sh built. Needs root and a Docker daemon to build one.
set -euo pipefail
source "$(dirname "$0")/steps.sh"

if [ -n "${PUBSUB_NODE_IMAGE:-}" ]; then
    docker image inspect "$PUBSUB_NODE_IMAGE" >/dev/null 2>&1 || step "pull $PUBSUB_NODE_IMAGE" docker pull -q "$PUBSUB_NODE_IMAGE" >&2
    printf '%s\n' "$PUBSUB_NODE_IMAGE"
    exit 0
fi

release=bookworm
base_packages=systemd,systemd-sysv,dbus,containerd,runc,containernetworking-plugins,iptables,nftables,iproute2,conntrack
base_packages+=,ethtool,kmod,mount,procps,ca-certificates,socat,busybox-static
bin=$(dirname "$(readlink -f "$cache/bin/kube")")
kubernetes=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' "$kind_directory/programs/go.mod")
# The tags that kubeadm of this version asks for.
etcd_tag=3.6.5-0
dns_tag=v1.12.1
pause_tag=3.10.1

# The base and the programs are told by their names, which hold the stamps of what they were made from.
base=$cache/base-$(printf '%s\n' "$release" "$base_packages" | stamp_of).tar
mapfile -t sources < <(find "$kind_directory/node" "$kind_directory/node-image.sh" -type f | sort)
stamp=$(printf '%s\n' "$base" "$bin" | stamp_of "${sources[@]}")
node_image=pubsub/kind-node:$stamp
if docker image inspect "$node_image" >/dev/null 2>&1; then
    printf '%s\n' "$node_image"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail "Building a node image needs root. With PUBSUB_NODE_IMAGE=kindest/node:$kubernetes a stock one is pulled instead."
[ -x "$bin/coredns" ] || fail "The cluster's programs are missing: run programs.sh first."

# What a build left that was killed.
for left in "$cache"/node-image.*; do
    [ -d "$left" ] || continue
    pid=$(cat "$left/containerd.pid" 2>/dev/null) && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$left" && kill "$pid"
    rm -rf "$left"
done
work=$(mktemp -d "$cache/node-image.XXXXXX")
tree=$work/tree
images=()
containerd_pid=
finish() {
    [ -z "$containerd_pid" ] || kill "$containerd_pid" 2>/dev/null || true
    [ -z "$containerd_pid" ] || wait "$containerd_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# The part that changes least: kept in a file.
debian() {
    local mirror
    # Where this machine takes its own packages from, in either of the two forms.
    mirror=$({ cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true; } |
        sed -n -e 's/^URIs: *//p' -e 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' | sed -n 1p)
    mmdebstrap --quiet --format=tar --variant=minbase --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' --include="$base_packages" \
        "$release" "$base.part" "${mirror:-http://deb.debian.org/debian}"
    mv "$base.part" "$base"
}

unpack() {
    mkdir -p "$tree"
    tar -C "$tree" -xpf "$base"
    rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/*
}

# copy_with_libraries DIRECTORY PROGRAM...: copies programs of the node's own Debian with the libraries that they need.
copy_with_libraries() {
    local directory=$1 file
    shift
    for file in "$@" $(chroot "$tree" ldd "$@" 2>/dev/null | grep -o '/[^ )]*' | grep -v ':$' | sort -u); do
        mkdir -p "$directory$(dirname "$file")"
        [ -e "$directory$file" ] || cp "$tree$file" "$directory$file"
    done
}

# add_image NAME DIRECTORY [CHANGE...]: one layer from a directory, to go into the node's store.
add_image() {
    local name=$1 directory=$2 changes=(--change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin') change
    shift 2
    for change in "$@"; do
        changes+=(--change "$change")
    done
    tar -C "$directory" --owner=0 --group=0 --numeric-owner -cf - . | docker import "${changes[@]}" - "$name" >/dev/null
    images+=("$name")
}

# add_program NAME PROGRAM PATH [CHANGE...]: an image of one static program.
add_program() {
    local name=$1 program=$2 path=$3 directory=$work/images/$2
    shift 3
    mkdir -p "$directory$(dirname "$path")" "$directory/tmp" "$directory/etc"
    cp "$bin/$program" "$directory$path"
    add_image "$name" "$directory" "$@"
}

# A shell, for the pods that make and remove the directories of volumes.
shell_image() {
    local directory=$work/images/shell applet
    mkdir -p "$directory"/{bin,sbin,usr/bin,usr/sbin,usr/local/bin,tmp,etc,root}
    cp "$tree/bin/busybox" "$directory/bin/busybox"
    for applet in $("$tree/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -sf /bin/busybox "$directory/bin/$applet"
    done
    echo 'root:x:0:0::/root:/bin/sh' >"$directory/etc/passwd"
    chmod 1777 "$directory/tmp"
    add_image localhost/cluster/busybox:v1 "$directory" 'CMD ["/bin/sh"]'
}

# The shell with iptables, which kube-proxy and the pod network call.
network_directory() {
    local directory=$work/images/network program libraries modules
    cp -a "$work/images/shell" "$directory"
    libraries=/usr/lib/$(uname -m)-linux-gnu/xtables
    copy_with_libraries "$directory" /usr/sbin/xtables-nft-multi /usr/sbin/conntrack /usr/sbin/nft
    mapfile -t modules < <(cd "$tree" && find ".$libraries" -name '*.so' | sed 's/^\.//')
    copy_with_libraries "$directory" "${modules[@]}"
    for program in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
        rm -f "$directory/bin/$program"
        ln -sf xtables-nft-multi "$directory/usr/sbin/$program"
    done
}

kubernetes_images() {
    local directory=$work/images/kubernetes name
    cp -a "$work/images/network" "$directory"
    cp "$bin/kube" "$directory/usr/local/bin/kube"
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
        ln -s kube "$directory/usr/local/bin/$name"
    done
    add_image "registry.k8s.io/kube-apiserver:$kubernetes" "$directory"
    for name in kube-controller-manager kube-scheduler kube-proxy; do
        docker tag "registry.k8s.io/kube-apiserver:$kubernetes" "registry.k8s.io/$name:$kubernetes"
        images+=("registry.k8s.io/$name:$kubernetes")
    done
}

cluster_images() {
    shell_image
    network_directory
    kubernetes_images
    cp -a "$work/images/network" "$work/images/podnet"
    add_program localhost/cluster/podnet:v1 podnet /usr/local/bin/podnet 'ENTRYPOINT ["/usr/local/bin/podnet"]'
    add_program localhost/cluster/local-path-provisioner:v1 local-path-provisioner /usr/local/bin/local-path-provisioner \
        'ENTRYPOINT ["/usr/local/bin/local-path-provisioner"]'
    add_program "registry.k8s.io/etcd:$etcd_tag" etcd /usr/local/bin/etcd
    add_program "registry.k8s.io/coredns/coredns:$dns_tag" coredns /coredns 'ENTRYPOINT ["/coredns"]'
    add_program "registry.k8s.io/pause:$pause_tag" pause /pause 'ENTRYPOINT ["/pause"]' 'USER 65535:65535'
}

# What the kind program expects to find in a node, and services for no more than a node needs.
node_files() {
    local system=$tree/etc/systemd/system name
    install -m 755 "$bin/kube" "$tree/usr/bin/kube"
    for name in kubelet kubeadm kubectl; do
        ln -s kube "$tree/usr/bin/$name"
    done
    install -m 755 "$kind_directory/node/entrypoint" "$tree/usr/local/bin/entrypoint"
    mkdir -p "$tree"/kind/manifests "$tree"/opt/cni/bin "$tree"/etc/cni/net.d "$tree"/etc/kubernetes/manifests "$tree"/etc/containerd
    printf '%s' "$kubernetes" >"$tree/kind/version"
    cp "$kind_directory"/node/manifests/*.yaml "$tree/kind/manifests/"
    cp -L "$tree"/usr/lib/cni/* "$tree/opt/cni/bin/"
    cp "$kind_directory/node/containerd.toml" "$tree/etc/containerd/config.toml"
    find "$system" "$tree/lib/systemd/system" -path '*.wants/*' \( -type l -o -type f \) -delete
    cp "$kind_directory"/node/systemd/*.service "$system/"
    mkdir -p "$system/multi-user.target.wants" "$system/sysinit.target.wants"
    for name in containerd kubelet; do
        ln -s "../$name.service" "$system/multi-user.target.wants/$name.service"
    done
    ln -s /lib/systemd/system/systemd-journald.service "$system/sysinit.target.wants/"
    ln -sf /lib/systemd/system/multi-user.target "$system/default.target"
    printf '[Journal]\nReadKMsg=no\nStorage=volatile\n' >"$tree/etc/systemd/journald.conf"
}

# The cluster's images go into the node's store as they are packed, and are unpacked when a node first uses them.
fill_store() {
    printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$work/containerd.toml"
    containerd --config "$work/containerd.toml" --root "$tree/var/lib/containerd" --state "$work/state" --address "$work/socket" \
        >"$work/containerd.log" 2>&1 8>&- 9>&- &
    containerd_pid=$!
    echo "$containerd_pid" >"$work/containerd.pid"
    wait_until 20 "an answer of containerd" ctr -a "$work/socket" version
    docker save "${images[@]}" | ctr -a "$work/socket" -n k8s.io images import --no-unpack - >"$work/import.log"
    kill "$containerd_pid"
    wait "$containerd_pid" 2>/dev/null || true
    containerd_pid=
}

# A layer that is imported can't name the signal that stops systemd, so a build of no steps adds it.
pack() {
    tar -C "$tree" --numeric-owner --xattrs -cf - . | docker import - "$node_image-layer" >/dev/null
    printf 'FROM %s\nENV container=docker\nSTOPSIGNAL SIGRTMIN+3\nENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]\n' "$node_image-layer" |
        DOCKER_BUILDKIT=0 docker build -q -t "$node_image" - >/dev/null 2>&1
    docker image rm -f "$node_image-layer" "${images[@]}" >/dev/null
}

# Images of other stamps are of use to nobody here.
forget_others() {
    local other
    for other in $(docker image ls --format '{{.Repository}}:{{.Tag}}' pubsub/kind-node); do
        [ "$other" = "$node_image" ] || docker image rm "$other" >/dev/null 2>&1 || true
    done
}

[ -f "$base" ] || step "node: Debian" debian
step "node: unpack" unpack
step "node: images of the cluster" cluster_images
step "node: files" node_files
step "node: image store" fill_store
step "node: pack" pack
forget_others
printf '%s\n' "$node_image"
