#!/usr/bin/env bash
# Runs every *_fuzz program for FUZZ_SECONDS (default 60). What it learns stays in build-fuzz/corpus/, what breaks in
# build-fuzz/crashes/: the crash file is the argument that reproduces it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
mapfile -t programs < <(find build-fuzz -maxdepth 1 -type f -name '*_fuzz' -perm -u+x | sort)
if [[ ${#programs[@]} -eq 0 ]]; then
    echo "fuzz: build-fuzz holds no *_fuzz program; run make fuzz" >&2
    exit 1
fi
mkdir -p build-fuzz/crashes
for program in "${programs[@]}"; do
    name=$(basename "$program")
    corpus=build-fuzz/corpus/$name
    mkdir -p "$corpus"
    seeds=()
    [[ -d tests/fuzz/$name ]] && seeds=("tests/fuzz/$name")
    echo "fuzz: $name for $seconds s"
    "$program" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="build-fuzz/crashes/$name-" "$corpus" "${seeds[@]}"
done
