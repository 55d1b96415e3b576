#!/usr/bin/env bash
# Boots another kernel of Debian's and runs tests of the packet plane on it: this machine's verifier may take what the
# oldest kernel that we promise refuses.
#   run.sh                     the tests of tests/kernel/inside.sh on Debian 12's newest kernel
#   run.sh VERSION             on that one; of linux-image-VERSION, such as 6.1.0-50-amd64
#   run.sh VERSION COMMAND...  a command instead of the tests, in the repository
# Ends with the tests' exit status. The machine that is booted sees this one's files, and what it writes to them is gone
# with it. KERNEL_SECONDS (7200) bounds it: where the processor cannot run virtual machines it is emulated, some
# ten times slower.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
fail() { echo "test-kernel: $*" >&2; exit 1; }

declare -A package=([qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [cpio]=cpio [dpkg-deb]=dpkg [apt-get]=apt)
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || fail "$program is missing: apt-get install --no-install-recommends ${package[$program]}"
done
busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
    fail "$busybox needs libraries, which the first file system has not: apt-get install busybox-static"
fi

version=${1:-}
if [[ -z $version ]]; then
    version=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-//p' | head -n 1)
    [[ -n $version ]] || fail "apt knows no linux-image-amd64: name a version, or apt-get update on a Debian machine"
fi
shift $(($# ? 1 : 0))

work=$(mktemp -d "${TMPDIR:-/tmp}/marchproxy-kernel-XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -qq download "linux-image-$version" 2>apt.log) ||
    fail "apt-get download linux-image-$version: $(cat "$work/apt.log"); see apt-cache search linux-image"
dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"
rm "$work"/linux-image-*.deb
modules=$work/kernel/lib/modules/$version
busybox depmod -b "$work/kernel" "$version"

# The first file system: what it takes to reach this machine's files. Of the modules, these with those that they need;
# a kernel that has one built in has no file of it.
wanted=(virtio_pci 9pnet_virtio 9p overlay)
mkdir -p "$work/first/bin" "$work/first/lib/modules/$version" "$work/out"
cp "$busybox" "$work/first/bin/busybox"
cp "$modules/modules.dep" "$work/first/lib/modules/$version/"
for name in "${wanted[@]}"; do
    for file in $(sed -n "s,^\(.*/$name\.ko[^:]*\):,\1,p" "$modules/modules.dep"); do
        (cd "$modules" && cp --parents "$file" "$work/first/lib/modules/$version/")
    done
done
accelerator=tcg,thread=multi patience=6
if [[ -w /dev/kvm ]] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then accelerator=kvm patience=1; fi

{
    printf 'export PATH=%q HOME=%q kernel=%q out=%q\n' "$PATH" "$HOME" "$work/kernel" "$work/out"
    printf 'export MARCHPROXY_PATIENCE=%s; cd %q\n' "$patience" "$repository"
    printf 'set --'
    [[ $# -eq 0 ]] || printf ' %q' "$@"
    printf '\n. tests/kernel/inside.sh\n'
} >"$work/tests.sh"
cat >"$work/first/init" <<END
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /host /over /new
/bin/busybox mount -t proc proc /proc
for name in ${wanted[*]}; do /bin/busybox modprobe \$name; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 files /host
/bin/busybox mount -t tmpfs tmpfs /over
/bin/busybox mkdir /over/changes /over/work
/bin/busybox mount -t overlay -o lowerdir=/host,upperdir=/over/changes,workdir=/over/work overlay /new
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L out '/new$work/out'
/bin/busybox umount /proc
exec /bin/busybox switch_root /new /bin/bash '$work/tests.sh'
END
chmod +x "$work/first/init"
(cd "$work/first" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"

echo "test-kernel: Linux $version, ${accelerator%%,*}"
nice -n 10 timeout "${KERNEL_SECONDS:-7200}" qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 2 -m 4G -nographic -no-reboot \
    -nic none -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off" \
    -virtfs "local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap" \
    -virtfs "local,path=$work/out,mount_tag=out,security_model=none" </dev/null || fail "the machine did not end by itself"
[[ -s $work/out/status ]] || fail "the machine ended without a status: what it printed last says why"
exit "$(cat "$work/out/status")"
