#!/usr/bin/env bash
# Installs the Debian 12 packages that are missing; a fraction of a second when none is.
#   setup.sh [--test] [--bench] [--lint] [--fuzz] [--coverage] [--package] [--kernel]
# Without a flag: what building and running takes. Groups add up. Needs root or sudo only when something is missing.
set -euo pipefail

build=(g++ cmake make ninja-build ccache mold pkg-config git python3
       libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev prometheus-cpp-dev libcpp-httplib-dev
       libssl-dev libc-ares-dev libsqlite3-dev libgtest-dev libgmock-dev libbenchmark-dev
       clang-14 bpftool libbpf-dev libxdp-dev)
test=(iperf3 ethtool iputils-ping traceroute netcat-openbsd bind9-dnsutils curl apache2-utils wrk iproute2 nftables
      llvm-14)
bench=(haproxy nginx libnginx-mod-stream python3-venv)
lint=(clang-format-14 clang-tidy-14)
fuzz=(clang-14 libclang-rt-14-dev)
coverage=(gcovr)
package=(dpkg-dev file)
kernel=(qemu-system-x86 busybox-static cpio)

wanted=("${build[@]}")
for flag in "$@"; do
    case $flag in
        --test) wanted+=("${test[@]}") ;;
        --bench) wanted+=("${bench[@]}") ;;
        --lint) wanted+=("${lint[@]}") ;;
        --fuzz) wanted+=("${fuzz[@]}") ;;
        --coverage) wanted+=("${coverage[@]}") ;;
        --package) wanted+=("${package[@]}") ;;
        --kernel) wanted+=("${kernel[@]}") ;;
        *) echo "setup: unknown flag $flag; it takes --test --bench --lint --fuzz --coverage --package --kernel" >&2; exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    echo "setup: this is no Debian; see to the equivalents of: ${wanted[*]}" >&2
    exit 0
fi

# Prints the packages of its arguments that are not installed.
missing_of() {
    local have
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true)
    local name
    for name in "$@"; do
        grep -qxF -- "$name" <<<"$have" || echo "$name"
    done
}

mapfile -t missing < <(missing_of "${wanted[@]}")
[[ ${#missing[@]} -eq 0 ]] && exit 0

command_line="apt-get install -y --no-install-recommends ${missing[*]}"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
        as_root=(sudo)
    else
        echo "setup: these packages are missing, and installing them takes root. Run as root:" >&2
        echo "    $command_line" >&2
        # The build cannot do without its own group; a test whose program is missing skips itself by name.
        [[ -z $(missing_of "${build[@]}") && " $* " == *" --test "* && $# -eq 1 ]] && exit 0
        exit 1
    fi
fi

# Package scripts must neither ask nor start daemons (haproxy, nginx): 101 tells invoke-rc.d that starting is forbidden.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null; }

echo "setup: installing ${missing[*]}"
# Package lists are fetched only when they are absent or too old for what is wanted.
if ! apt install -s --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    apt update
fi
apt install -y --no-install-recommends "${missing[@]}" >/dev/null || {
    apt update
    apt install -y --no-install-recommends "${missing[@]}" >/dev/null || {
        echo "setup: apt-get could not install them; try: $command_line" >&2
        exit 1
    }
}

# Peers of the benchmark are programs it starts itself, not services of this machine.
if [[ -d /run/systemd/system ]]; then
    for name in haproxy nginx; do
        if [[ " ${missing[*]} " == *" $name "* ]]; then "${as_root[@]}" systemctl disable --quiet "$name"; fi
    done
fi
