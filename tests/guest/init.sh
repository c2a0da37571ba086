#!/bin/busybox sh
# The first process of the guest of run.sh: mounts what the command expects, hands it the virtual ports, tells its exit
# code, and switches the guest off. An error goes to the console, which run.sh shows where no result came.
b=/bin/busybox
off() { echo "init: $*"; $b sync; $b poweroff -f; $b sleep 10; }
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod "/modules/$module.ko" || echo "init: module $module is refused"; done

port() { # NAME: the device with this name
  for folder in /sys/class/virtio-ports/*; do
    if [ "$($b cat "$folder/name" 2>/dev/null)" = "$1" ]; then echo "/dev/${folder##*/}"; fi
  done
}
# They are told to the kernel a moment after the driver is there.
for _ in $($b seq 500); do [ -n "$(port result)" ] && [ -n "$(port out)" ] && [ -n "$(port err)" ] && break; $b usleep 10000; done
exec 5> "$(port result)" || off "no port for the result"

nine=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "$nine,ro,cache=loose" host /host || off "the machine's files cannot be mounted"
$b mount -t tmpfs layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new || off "no layer above them"
share=$($b cat /share)
if [ -n "$share" ]; then $b mount -t 9p -o "$nine" writable "/new$share" || off "$share cannot be mounted"; fi
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t devtmpfs dev /new/dev
$b mkdir -p /new/dev/pts /new/dev/shm /new/disk
$b mount -t devpts devpts /new/dev/pts
$b mount -t tmpfs -o mode=1777 shm /new/dev/shm
$b mount -t tmpfs -o mode=755 run /new/run
$b mount -t ext4 /dev/vda /new/disk || off "no disk"
$b mkdir -m 1777 /new/disk/tmp
$b mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /new/sys/fs/cgroup || off "no cgroup v2"
for controller in cpuset cpu io memory pids; do echo "+$controller" > /new/sys/fs/cgroup/cgroup.subtree_control; done
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
  $b ln -sf "${link#*:}" "/new/dev/${link%%:*}"
done
$b ifconfig lo up
$b hostname guest
$b cp /job /new/run/job

# Through pipes, as a port can be opened only once, and programs open /dev/stderr anew.
$b mkfifo /out /err
$b cat < /out > "$(port out)" &
out=$!
$b cat < /err > "$(port err)" &
err=$!
$b chroot /new /bin/bash /run/job > /out 2> /err < /dev/null 5>&-
code=$?
# What outlives the command may hold the pipes for ever.
for _ in $($b seq 200); do
  $b kill -0 $out 2>/dev/null || $b kill -0 $err 2>/dev/null || break
  $b usleep 10000
done
echo "exit $code" >&5
$b sync
$b poweroff -f
$b sleep 10
