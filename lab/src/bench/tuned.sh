#!/bin/sh
# Runs TuneD as its Debian packages have it, over the machine's own files, none of which it can change, and in a network
# namespace of its own, whose sysctls it sets. Becomes TuneD: unshare --fork --pid --mount-proc --mount --net sh -c ...
set -eu
packages=$1

ip link set lo up
# A place that is in no other mount namespace, and gone with this one.
mount -t tmpfs tuned /mnt
mkdir /mnt/upper /mnt/work /mnt/root
cp -a "$packages/usr" "$packages/etc" /mnt/upper
mount -t overlay tuned -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for folder in proc sys dev; do mount --rbind "/$folder" "/mnt/root/$folder"; done

etc=/mnt/root/etc/tuned
mkdir -p "$etc/bench" /mnt/root/run/tuned
cat >"$etc/bench/tuned.conf" <<EOF
[sysctl]
net.ipv4.tcp_fin_timeout=30
net.ipv4.tcp_tw_reuse=1
net.ipv4.tcp_orphan_retries=5
net.ipv4.tcp_retries2=8
net.ipv4.tcp_max_tw_buckets=65536
EOF
echo bench >"$etc/active_profile"
echo manual >"$etc/profile_mode"
# Without this it writes what the machine has under /etc/sysctl.d, also what belongs to no network namespace.
sed -i 's/^ *reapply_sysctl *=.*/reapply_sysctl = 0/' "$etc/tuned-main.conf"
exec chroot /mnt/root /usr/bin/python3 -Es /usr/sbin/tuned --no-dbus
