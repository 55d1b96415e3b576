#!/usr/bin/env bash
# build.sh PRESET TARGET... : configure once, then build the targets. Ninja re-runs CMake by itself when sources appear.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
directory=build-$preset
[[ $preset == release ]] && directory=build
if [[ ! -f $directory/build.ninja ]]; then
    cmake --preset "$preset" >"/tmp/marchproxy-configure.$$" 2>&1 || {
        cat "/tmp/marchproxy-configure.$$" >&2
        rm -f "/tmp/marchproxy-configure.$$"
        echo "build: configuring $directory failed; when a package is named above, run scripts/setup.sh" >&2
        exit 1
    }
    rm -f "/tmp/marchproxy-configure.$$"
fi
exec cmake --build "$directory" --target "$@"
