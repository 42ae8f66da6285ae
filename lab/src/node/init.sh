#!/bin/sh
# The first process of a node: gives it folders of its own, starts what a node runs, and reaps orphans.
# Runs in namespaces of its own (pid, mount, network, uts), so that all of this ends with it.
set -eu
node=$LAB_NODE_FOLDER

mount --make-rshared /
hostname "$LAB_NODE_NAME"

# The kubelet writes kernel settings that are the machine's, not the node's. It leaves alone what it finds as it wants
# it, so it finds that.
pretend() {
    file=$node/kernel/$(basename "$1")
    mkdir -p "$node/kernel"
    echo "$2" >"$file"
    if [ -e "/proc/sys/$1" ]; then mount --bind "$file" "/proc/sys/$1"; fi
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

# Programs and CNI plugins are mounted one by one: where they lie may be hidden by the folders that follow.
mkdir -p "$node/run/lab/bin" "$node/run/lab/cni" "$node/run/lab/lib" "$node/run/lock" "$node/var-lib" "$node/var-log/lab"
for program in "$LAB_PROGRAMS"/*; do
    touch "$node/run/lab/bin/${program##*/}"
    mount --bind "$(readlink -f "$program")" "$node/run/lab/bin/${program##*/}"
done
mount --bind "$LAB_CNI_PLUGINS" "$node/run/lab/cni"
if [ -n "$LAB_LIBRARIES" ]; then mount --bind "$LAB_LIBRARIES" "$node/run/lab/lib"; fi

# From here on the node has folders of its own: nothing that a pod, the kubelet or containerd writes reaches the machine.
# /var/lib comes last: the lab's own folder lies below it.
mount --rbind "$node/run" /run
mount --bind "$node/var-log" /var/log
mount --bind "$node/var-lib" /var/lib
cd /
export LD_LIBRARY_PATH=/run/lab/lib
export PATH=/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Starts a program again when it ends, as the service manager of a node would.
keep() {
    log=/var/log/lab/$1.log
    while :; do
        "$@" >>"$log" 2>&1 || echo "ended with $?; starts again" >>"$log"
        sleep 1
    done
}

until [ -e /run/lab/network-is-up ]; do sleep 0.05; done
keep containerd --config /var/lib/lab/containerd.toml &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
keep kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /var/lib/kubelet/kubeconfig \
    --hostname-override "$LAB_NODE_NAME" --node-ip "$LAB_NODE_ADDRESS" &
while :; do wait; done
