#!/usr/bin/env bash
# Line coverage of src/ by the unit and end-to-end tests, run with the instrumented build; fails below the threshold.
set -euo pipefail
cd "$(dirname "$0")/.."
threshold=${COVERAGE_MINIMUM:-85}
find build-coverage -name '*.gcda' -delete
# A failing test is reported after the figure: coverage of what did run is still worth printing.
status=0
ctest --test-dir build-coverage --output-on-failure --no-label-summary -L 'unit|e2e' -j "$(nproc)" || status=$?
gcovr --root . --filter 'src/' --exclude '.*_(test|fuzz|bench)\.cc$' --object-directory build-coverage \
    --exclude-unreachable-branches --exclude-throw-branches -j "$(nproc)" \
    --html-details build-coverage/coverage.html --print-summary --fail-under-line "$threshold" --txt build-coverage/coverage.txt \
    build-coverage || { echo "coverage: below $threshold %; build-coverage/coverage.html shows where" >&2; exit 1; }
cat build-coverage/coverage.txt
exit "$status"
