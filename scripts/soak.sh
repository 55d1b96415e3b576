#!/usr/bin/env bash
# Repeats the end-to-end tests for SOAK_SECONDS (default 600), in random order, and stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${SOAK_SECONDS:-600}))
round=0
while ((SECONDS < end)); do
    round=$((round + 1))
    echo "soak: round $round, $((end - SECONDS)) s left"
    ctest --test-dir build -L e2e --schedule-random --stop-on-failure --output-on-failure --no-label-summary -Q -j "$(nproc)" || {
        echo "soak: round $round failed; build/Testing/Temporary/LastTest.log tells how" >&2
        exit 1
    }
done
echo "soak: $round rounds without a failure"
