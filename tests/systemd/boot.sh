#!/usr/bin/env bash
# boot.sh ROOT SCRATCH CHECKOUT WHEELS CGROUP: systemd as PID 1 of a machine that is namespaces.
#
# What it writes lies in memory over ROOT, which stays as it is. CHECKOUT and WHEELS are its
# /srv/weightd and /srv/wheels, read-only; SCRATCH is an empty folder to mount on. All mounts are in
# the machine's own namespace: they, and every process, end with this one, and this one with its
# parent.
set -euo pipefail

if [ "$1" != --inside ]; then
    echo $$ >"$5/cgroup.procs"
    exec setpriv --pdeathsig KILL unshare --mount --pid --cgroup --uts --ipc --net \
        --fork --kill-child -- "$0" --inside "$@"
fi
shift
lower=$1 scratch=$2 checkout=$3 wheels=$4

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch"/{upper,work,root}
root=$scratch/root
mount -t overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{shm,pts}
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for name in weightd wheels; do
    mkdir "$root/srv/$name"
    mount --bind "$([ "$name" = weightd ] && echo "$checkout" || echo "$wheels")" "$root/srv/$name"
    mount -o remount,bind,ro "$root/srv/$name"
done

# No /dev/kmsg: the kernel's log is the host's. It has no console to log in at, and is no machine that boots for the first time.
for unit in getty.target console-getty.service systemd-logind.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"

cd "$root"
pivot_root . mnt
umount -l /mnt
hostname weightd-test
exec env -i container=weightd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_PROC_CMDLINE=systemd.unit=multi-user.target \
    /lib/systemd/systemd --system --show-status=0
