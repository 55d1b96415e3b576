"""What a packet costs in the kernel: runs the bench's packet_cost and packet_live and takes their figures over."""

import json
import os
import re
import subprocess

import packet_net

# Each program, its rows, and the numbers that end their names: of flows, of the entries of a list.
PROGRAMS = {
    "packet_cost": (
        (("packet-empty", "packet-floor", "packet-line", "packet-established", "packet-new", "packet-denied",
          "packet-rate-limited", "packet-packets-limited", "packet-syn-cookie", "packet-dsr-ipip", "packet-dsr-gue",
          "packet-sweep", "packet-held", "packet-expired", "packet-memory"), (1, 1_000_000, 10_000_000)),
        (("packet-listed",), (1, 1_000, 100_000, 1_000_000)),
    ),
    "packet_live": ((("packet-live",), (1, 100_000)),),
}
SUBJECTS = ("marchproxy", "marchproxy-tc", "katran-design", "hash", "lru_hash", "lpm_trie", "line", "nftables", "direct", "empty")
PROJECTIONS = ("packet-cores-100Mpps", "packet-cores-100Gbps")


def row_names(wanted):
    names = [name for program in PROGRAMS for name in rows_of(program)]
    return [name for name in [*names, *PROJECTIONS, *packet_net.ROWS] if re.search(wanted, name)]


def rows_of(program):
    return [f"{row}-{number}" for rows, numbers in PROGRAMS[program] for number in numbers for row in rows]


def measure(build, binary, effort, wanted, results, say):
    """All figures at once. They need rights on BPF and 3 GB of memory for the kernel's hash maps of the comparison."""
    for program in PROGRAMS:
        if any(re.search(wanted, name) for name in rows_of(program)):
            run(program, build, effort.runs, wanted, results, say)
    project(wanted, results, say)
    packet_net.measure(build, binary, effort.runs, effort.iperf_seconds, wanted, results, say)


def run(program, build, runs, wanted, results, say):
    folder = os.path.join(build, "bench", "packet")
    command = [os.path.join(build, "bench", program), "--objects", folder, "--rounds", str(runs), "--only", wanted]
    say("packets in the kernel: " + " ".join(command))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            figure = json.loads(line)
            for value in figure["values"]:
                results.add(figure["bench"], figure["unit"], True, figure["subject"], value)
            say(f"{figure['bench']} {figure['subject']}: {sorted(figure['values'])[len(figure['values']) // 2]}")
    if child.returncode:
        say(f"{program} did not end well; its figures are left out from there on")


def project(wanted, results, say):
    """Cores for the goals, from what a whole forwarded packet costs one core here: a projection, no measurement. It takes
    for granted that cores do not slow each other down, and that packets of 1500 bytes cost what those of 64 do."""
    nanoseconds = results.median("packet-live-100000", "marchproxy")
    if nanoseconds is None:
        return
    for row, packets in zip(PROJECTIONS, (100e6, 100e9 / 8 / 1538)):
        if re.search(wanted, row):
            results.add(row, "cores (projected)", True, "marchproxy", packets * nanoseconds / 1e9)
            say(f"{row}: {packets * nanoseconds / 1e9:.1f} cores, projected from {nanoseconds:.0f} ns a packet")
