#!/usr/bin/env python3
"""The cut of the program, checked by machine: which rooms know which, how large files and functions grow, and that
documents name only what exists. Limits that something already passes are listed in ratchet.txt and may only fall."""
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RATCHET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ratchet.txt")
FILE_LINES = 600
FUNCTION_LINES = 70
SOURCE = re.compile(r"^src/.*\.(h|cc|cpp|def|c)$")
FOLDERS = ("src/", "tests/", "scripts/", "docs/", "examples/", "bench/", "cmake/", "deploy/", "web/", ".ci/")


def files():
    """Every file of the working tree that git would keep."""
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:  # a source archive without git
        names = []
        for folder, folders, here in os.walk(ROOT):
            folders[:] = [f for f in folders if not f.startswith(("build", ".git"))]
            names += [os.path.relpath(os.path.join(folder, f), ROOT) for f in here]
    return sorted(n for n in set(names) if os.path.isfile(os.path.join(ROOT, n)))


def lines_of(name):
    with open(os.path.join(ROOT, name), encoding="utf-8", errors="replace") as stream:
        return stream.read().splitlines()


def declared_rooms():
    """{room: rooms it may include}, in the order of CMakeLists.txt."""
    text = "\n".join(line.split("#")[0] for line in lines_of("CMakeLists.txt"))
    rooms = {}
    for name, rest in re.findall(r"marchproxy_room\(\s*(\w+)([^)]*)\)", text):
        listed = re.search(r"ROOMS\s+((?:[a-z_0-9]+\s*)+)", rest)
        rooms[name] = listed.group(1).split() if listed else []
    return rooms


def functions(lines):
    """(name, length) of functions as clang-format lays them out: opened at column 0 or, in a class, closed as it opened."""
    start = None
    for number, line in enumerate(lines):
        opener = re.match(r"^( *)(?!namespace|struct|class|enum|extern|union|template|[}#]|//|(?:if|for|while|switch|else|do)\b)"
                          r"\S?.*[)}]\s*(?:const|noexcept|override|final|mutable|\s)*(?:->\s*\S+\s*)?\{$", line)
        if start is None and opener:
            start = (number, opener.group(1))
        elif start is not None and re.match("^" + start[1] + r"\}", line):
            # A wrapped head is reported by its first line, where a reader looks for it.
            head = start[0]
            while head > 0 and lines[head - 1].strip() and not re.search(r"[;{}:]$|^\s*//|^#", lines[head - 1]):
                head -= 1
            yield lines[head].strip(), number - head + 1
            start = None


def ratchet():
    """{(kind, subject): limit} of what passed the limits when they were drawn."""
    entries = {}
    if os.path.exists(RATCHET):
        for line in lines_of(os.path.relpath(RATCHET, ROOT)):
            if line.strip() and not line.startswith("#"):
                kind, limit, subject = line.split(None, 2)
                entries[(kind, subject.strip())] = int(limit)
    return entries


def measured():
    """{(kind, subject): lines} of whatever passes a limit now."""
    found = {}
    for name in files():
        if not SOURCE.match(name):
            continue
        lines = lines_of(name)
        if len(lines) > FILE_LINES:
            found[("file", name)] = len(lines)
        if re.search(r"_(test|bench|fuzz)\.cc$", name):
            continue
        for function, length in functions(lines):
            if length > FUNCTION_LINES:
                found[("function", f"{name}: {function}")] = length
    return found


class Rooms(unittest.TestCase):
    def test_a_room_names_only_rooms_above_it(self):
        above = set()
        for room, known in declared_rooms().items():
            self.assertLessEqual(set(known), above, f"{room} names a room that is not above it: an arrow points back")
            above.add(room)

    def test_includes_follow_the_declared_arrows(self):
        rooms = declared_rooms()
        wrong = []
        for name in files():
            place = re.match(r"^src/(\w+)/", name)
            if not place or not SOURCE.match(name):
                continue
            room = place.group(1)
            if room not in rooms:
                wrong.append(f"{name}: src/{room} is no room of CMakeLists.txt")
                continue
            for number, line in enumerate(lines_of(name), 1):
                included = re.match(r'^\s*#\s*include\s+"(\w+)/', line)
                if included and included.group(1) in rooms and included.group(1) not in rooms[room] + [room]:
                    wrong.append(f"{name}:{number}: {room} may not include {included.group(1)}")
        self.assertEqual([], wrong)

    def test_own_headers_are_named_with_their_room(self):
        wrong = []
        for name in files():
            if not re.match(r"^src/\w+/.*\.(h|cc)$", name):
                continue
            for number, line in enumerate(lines_of(name), 1):
                included = re.match(r'^\s*#\s*include\s+"([^"]+)"', line)
                if not included or included.group(1) in ("version.h", "repository.h"):
                    continue
                # A skeleton is generated from the program of the same name.
                source = re.sub(r"\.skel\.h$", ".bpf.c", included.group(1))
                if not os.path.exists(os.path.join(ROOT, "src", source)):
                    wrong.append(f"{name}:{number}: {included.group(1)} is no file below src/")
        self.assertEqual([], wrong)


class Size(unittest.TestCase):
    def test_files_and_functions_stay_readable(self):
        allowed = ratchet()
        grown, shrunk = [], []
        now = measured()
        for key, length in now.items():
            limit = allowed.get(key, FILE_LINES if key[0] == "file" else FUNCTION_LINES)
            if length > limit:
                grown.append(f"{key[0]} {key[1]}: {length} lines, at most {limit}: split it by subject")
            elif length < limit:
                shrunk.append(f"{key[0]} {length} {key[1]}")
        shrunk += [f"{kind} (remove the line) {subject}" for kind, subject in allowed if (kind, subject) not in now]
        self.assertEqual([], grown)
        self.assertEqual([], shrunk, "these have become smaller: lower their line in tests/architecture/ratchet.txt")


class Words(unittest.TestCase):
    def test_nothing_is_left_for_later(self):
        marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
        found = []
        for name in files():
            if name.startswith(FOLDERS) or "/" not in name and name != "LICENSE":
                if name.endswith((".png", ".svg", ".gz")):
                    continue
                found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines_of(name), 1)
                          if marks.search(line)]
        self.assertEqual([], found)

    def test_documents_name_what_exists(self):
        missing = []
        for name in files():
            if not name.endswith(".md"):
                continue
            folder = os.path.dirname(os.path.join(ROOT, name))
            fenced = False
            for number, line in enumerate(lines_of(name), 1):
                if line.startswith("```"):
                    fenced = not fenced
                if fenced:
                    continue
                links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line)
                links = [l for l in links if not re.match(r"^[a-z]+:", l)]
                missing += [f"{name}:{number}: {l}" for l in links if not os.path.exists(os.path.join(folder, l))]
                for path in re.findall(r"`([\w./-]+)`", line):
                    if path.startswith(FOLDERS) and not path.startswith("bench/out") and \
                            not os.path.exists(os.path.join(ROOT, path)):
                        missing.append(f"{name}:{number}: {path}")
        self.assertEqual([], missing)

    def test_scripts_can_be_started(self):
        self.assertEqual([], [n for n in files() if re.match(r"^(scripts/.*\.sh|\.ci/run|bench/run\.py)$", n)
                              and not os.access(os.path.join(ROOT, n), os.X_OK)])


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:  # what a new ratchet.txt would hold
        for (kind, subject), length in sorted(measured().items()):
            print(kind, length, subject)
    else:
        unittest.main(verbosity=2)
