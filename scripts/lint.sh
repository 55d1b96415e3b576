#!/usr/bin/env bash
# Formatting, clang-tidy over every source of src/ (or the files named), shell and Python syntax, the architecture tests.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(git ls-files 'src/*.cc' 'src/*.cpp' 'src/*.h' 'src/*.c' 'bench/*.cc' 'bench/*.c' 'bench/*.h')
echo "lint: format of ${#sources[@]} files"
clang-format-14 --dry-run -Werror "${sources[@]}"

echo "lint: scripts"
for script in $(git ls-files 'scripts/*.sh' '.ci/run'); do bash -n "$script"; done
python3 - $(git ls-files '*.py') <<'PYTHON'
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name, encoding="utf-8").read(), name)
PYTHON
python3 tests/architecture/architecture.py

echo "lint: clang-tidy"
[[ -f build/compile_commands.json ]] || cmake --preset release >/dev/null
# The skeletons of the programs for the kernel are included, and only a build writes them.
mapfile -t skeletons < <(ninja -C build -t targets all | sed -n "s/^\([a-z_]*_skeleton\): phony$/\1/p")
ninja -C build --quiet "${skeletons[@]}"
if [[ $# -gt 0 ]]; then checked=("$@"); else
    mapfile -t checked < <(git ls-files 'src/*.cc' 'src/*.cpp' | grep -vE '_(test|fuzz|bench)\.cc$')
fi
printf '%s\n' "${checked[@]}" | xargs -P "$(nproc)" -n 2 clang-tidy-14 -p build --quiet 2> >(grep -v 'warnings\? generated' >&2)
