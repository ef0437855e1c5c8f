#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the guest as its process 1, with the host's programs: the tests that /rehome/plan names, a
# line each: NAME SECONDS COMMAND. Leaves NAME.log, NAME.status and, from googletest, NAME.json
# beside the plan, and `finished` when it has come to the end. Without a plan: a shell.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp TMPDIR=/tmp TERM=linux LANG=C.UTF-8
# For whatever has to know that it runs under emulation, and on which kernel.
export REHOME_KERNEL_TEST=1

run_plan() {
  while read -r name seconds command; do
    read -r now _ </proc/uptime
    echo "rehome: $now s: $name"
    mkdir -p "/tmp/$name"
    GTEST_OUTPUT=json:/rehome/$name.json TEST_TMPDIR=/tmp/$name \
      timeout -k 10 "$seconds" sh -c "cd /tmp/$name && $command" \
      >"/rehome/$name.log" 2>&1 </dev/null
    echo $? >"/rehome/$name.status"
  done </rehome/plan
  read -r now _ </proc/uptime
  echo "rehome: $now s: finished"
  echo "$now" >/rehome/finished
}

uname -r >/rehome/kernel
if [ -e /rehome/plan ]; then
  run_plan
else
  echo "The host's files are here, read-only; /tmp is memory, /rehome is the host's scratch."
  echo "exit ends the machine."
  setsid -c /bin/bash </dev/ttyS0 >/dev/ttyS0 2>&1
fi
sync
exec /bin/busybox poweroff -f
