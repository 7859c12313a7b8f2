#!/bin/sh
# own_machine.sh COMMAND...: runs a command as on a machine of its own: with a network, and the folders that Kubernetes
# shares between clusters, of its own. So a native cluster can run beside another one. Needs root.
set -e
if [ -z "$OWN_MACHINE" ]; then
    OWN_MACHINE=yes exec unshare --mount --net "$0" "$@"
fi
mount --make-rprivate /
ip link set lo up
for folder in /var/lib/kubelet /var/lib/cni /var/log/containers; do
    mkdir -p $folder
    mount -t tmpfs none $folder
done
exec "$@"
