"""What a packet costs in the kernel: runs the bench's packet_cost and takes its figures over."""

import json
import os
import re
import subprocess

ROWS = ("packet-empty", "packet-floor", "packet-established", "packet-new", "packet-denied", "packet-sweep", "packet-memory")
SUBJECTS = ("marchproxy", "hash", "lru_hash", "empty")
FLOWS = (1, 1_000_000, 10_000_000)


def row_names(wanted):
    names = [f"{row}-{flows}" for row in ROWS for flows in FLOWS]
    return [name for name in names if re.search(wanted, name)]


def measure(build, runs, wanted, results, say):
    """All figures at once. They need rights on BPF and 3 GB of memory for the kernel's hash maps of the comparison."""
    if not row_names(wanted):
        return
    folder = os.path.join(build, "bench", "packet")
    command = [os.path.join(build, "bench", "packet_cost"), "--objects", folder, "--rounds", str(runs), "--only", wanted]
    say("packets in the kernel: " + " ".join(command))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            figure = json.loads(line)
            for value in figure["values"]:
                results.add(figure["bench"], figure["unit"], True, figure["subject"], value)
            say(f"{figure['bench']} {figure['subject']}: {sorted(figure['values'])[len(figure['values']) // 2]}")
    if child.returncode:
        say("packet_cost did not end well; its figures are left out from there on")
