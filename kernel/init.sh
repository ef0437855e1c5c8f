#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First program of the guest, from the initramfs: makes a root file system of the host's, read-only,
# with directories in memory where something is written, and goes on to /rehome/guest.sh in it.
B=/bin/busybox
NINE_P=trans=virtio,version=9p2000.L,msize=262144

fail() {
  echo "rehome: init: $*"
  $B poweroff -f
}

$B mkdir -p /proc /host /new
$B mount -t proc proc /proc || fail "no /proc"
$B mount -t 9p -o ro,cache=loose,$NINE_P host /host || fail "no share named host"
$B mount -t tmpfs root /new || fail "no tmpfs"

for entry in /host/*; do
  name=${entry##*/}
  case $name in
    dev | proc | sys | run | tmp) continue ;;
  esac
  if [ -L "$entry" ]; then
    $B cp -d "$entry" "/new/$name"
  elif [ -d "$entry" ]; then
    $B mkdir "/new/$name" && $B mount --bind "$entry" "/new/$name" || fail "no $entry"
  fi
done

cd /new || fail "no root"
$B mkdir -p dev proc sys run rehome && $B mkdir -m 1777 tmp
$B mount -t devtmpfs dev dev && $B mkdir -p dev/pts dev/shm
$B mount -t devpts devpts dev/pts
$B mount -t tmpfs shm dev/shm
$B mount -t proc proc proc
$B mount -t sysfs sys sys
$B mount -t cgroup2 cgroup sys/fs/cgroup
$B mount -t tmpfs tmp var/tmp
$B mount -t 9p -o rw,cache=none,$NINE_P rehome rehome || fail "no share named rehome"
$B ifconfig lo 127.0.0.1 up

# Trees that lie where the host's directories were left out above; none has a blank in its path.
for path in $($B sed -n 's/.*rehome.bind=\([^ ]*\).*/\1/p' /proc/cmdline | $B tr : ' '); do
  $B mkdir -p "/new$path" && $B mount --bind "/host$path" "/new$path" || fail "no $path"
done

exec $B switch_root /new /rehome/guest.sh
