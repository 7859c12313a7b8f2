#!/bin/sh
# own_machine.sh COMMAND...: runs a command as on a machine of its own: with a network, and the folders that Kubernetes
# shares between clusters, of its own. So a native cluster can run beside another one. Without root, which that needs,
# it runs the command as it is, and OWN_MACHINE is not set.
set -e
if [ "$(id -u)" != 0 ]; then
    exec "$@"
fi
if [ -z "$OWN_MACHINE" ]; then
    OWN_MACHINE=yes exec unshare --mount --net "$0" "$@"
fi
mount --make-rprivate /
ip link set lo up
# Kubernetes' addresses of Services are no interface's: a packet to one needs some route until it has been rewritten.
ip route add default dev lo
for folder in /var/lib/kubelet /var/lib/cni /var/log/containers; do
    mkdir -p $folder
    mount -t tmpfs none $folder
done
exec "$@"
