#!/bin/busybox sh
# The machine's first process. Makes a root of the host's files, read-only, below a layer in memory
# that is lost at the end; then runs what the host has put into $share.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order

over=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,cache=loose,$over" host /host
mount -t tmpfs -o size=75% tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root

mkdir -p "/root$share" /root/lib/modules
mount -t 9p -o "$over" share "/root$share"
mount --bind "/host$modules" /root/lib/modules
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t tmpfs -o mode=0755 tmpfs /root/run
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/net
mknod /root/dev/net/tun c 10 200
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
ln -s /proc/self/fd /root/dev/fd
ip link set lo up
exec switch_root /root /bin/sh "$share/run"
