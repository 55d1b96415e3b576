#!/bin/sh
# Runs a unit-test program of a sanitizer tree; 77 (skipped) when that tree has not been built.
if [ ! -x "$1" ]; then
    echo "$1 is not built; make test builds it" >&2
    exit 77
fi
export ASAN_OPTIONS=detect_leaks=1:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
exec "$1" --gtest_brief=1
