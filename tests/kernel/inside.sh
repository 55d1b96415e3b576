# Sourced as the first process of the machine that run.sh boots, in the repository, with the command to run as its
# arguments; without one, the tests below. Its root is an overlay over the host's files. Ends by switching off.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /lib/modules
mount --bind "$kernel/lib/modules" /lib/modules
ln -sf "$(command -v busybox)" /sbin/modprobe  # the kernel's own wish for a module starts this path
ip link set lo up
ulimit -n 65536
hostname kernel-test

export MARCHPROXY_BINARY=$PWD/build/marchproxy-l3l4 MARCHPROXY_E2E_PROGRAMS=$PWD/build/tests/e2e
export PYTHONDONTWRITEBYTECODE=1

# Every test program, so that one kernel's refusal is seen whole; the status is that of the last that failed.
status=0
attempt() {
    echo "== $*"
    "$@" && return
    local code=$?
    [[ $code -eq 77 ]] || status=$code  # 77: all of it skipped, by name
}
if [[ $# -gt 0 ]]; then
    attempt "$@"
else
    attempt build/bpf_test
    attempt build/packet_test
    for file in tests/e2e/packet_{carry,dsr,admit,life,vlan,beside}.py; do attempt python3 "$file"; done
fi
echo "$status" >"$out/status"
sync
busybox poweroff -f
