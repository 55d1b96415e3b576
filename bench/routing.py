"""Routing by measured paths: how soon an outage is left, what a choice and what probing cost; beside HAProxy's and nginx's
own ways of doing it. The outages happen in a network namespace of their own (routing_case.py)."""

import json
import os
import re
import shutil
import subprocess
import sys

import routing_case

HERE = os.path.dirname(os.path.abspath(__file__))
PROXIES = ("marchproxy", "haproxy", "nginx")
# The bare system calls of as many tcp probes, by sockets that are used again and by new ones; prober_bench's names.
SYSTEM_CALLS = {"kept-sockets": "handshake<true>", "new-sockets": "handshake<false>"}
SUBJECTS = (*PROXIES, *SYSTEM_CALLS)
OUTAGES = ("killed", "dark", "dark-10ms")
FIGURES = {"left": "ms", "errors": "clients", "slowest": "ms", "rate": "connections/s"}
OUTAGE_ROWS = [f"routing-{outage}-{figure}" for outage in OUTAGES for figure in FIGURES]
CHOICES = {"routing-choose-10": "choose/latency/10", "routing-choose-1000": "choose/latency/1000",
           "routing-choose-1000-fallen": "choose/latency/preferred_down/1000"}
KINDS = ("tcp", "udp", "icmp")
PROBES_A_SECOND = 5000 / 0.2
PROBE_ROWS = [f"routing-probes-{kind}" for kind in KINDS]
ROWS = [*OUTAGE_ROWS, *CHOICES, *PROBE_ROWS]


def row_names(wanted):
    return [name for name in ROWS if re.search(wanted, name)]


def tools(wanted):
    """Of the build directory, for these rows."""
    names = []
    if any(re.search(wanted, name) for name in CHOICES):
        names.append("selector_bench")
    if any(re.search(wanted, name) for name in PROBE_ROWS):
        names.append("prober_bench")
    return names


def measure(build, binary, runs, wanted, results, say):
    outages(binary, runs, wanted, results, say)
    choices(build, runs, wanted, results, say)
    probes(build, runs, wanted, results, say)


def outages(binary, runs, wanted, results, say):
    """Every round over every subject once, each in a namespace of its own."""
    for number in range(runs):
        for outage in OUTAGES:
            rows = {f"routing-{outage}-{figure}": figure for figure in FIGURES}
            if not any(re.search(wanted, row) for row in rows):
                continue
            for subject in PROXIES:
                case = play(binary, subject, outage, say)
                if not case:
                    continue
                for row, figure in rows.items():
                    if re.search(wanted, row):
                        results.add(row, FIGURES[figure], figure != "rate", subject, case[figure])
                say(f"round {number + 1}/{runs} {outage} {subject}: {case}")


def play(binary, subject, outage, say):
    program = binary if subject == "marchproxy" else shutil.which(subject)
    if not program:
        return None
    command = ["unshare", "--net", sys.executable, "-B", os.path.join(HERE, "routing_case.py"), subject, outage, program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=routing_case.LONGEST)
    except subprocess.TimeoutExpired:
        say(f"{subject}, {outage}: not over within {routing_case.LONGEST} s")
        return None
    if done.returncode:
        say(f"{subject}, {outage}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def benchmarks(build, program, pattern, runs, say):
    """What google-benchmark tells of each run, by name."""
    command = [os.path.join(build, program), f"--benchmark_filter={pattern}", f"--benchmark_repetitions={runs}",
               "--benchmark_format=json"]
    say(" ".join(command))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        say(f"{program} did not end well: {done.stderr.strip()}")
        return {}
    found = {}
    for run in json.loads(done.stdout)["benchmarks"]:
        if run["run_type"] == "iteration":
            found.setdefault(run["run_name"], []).append(run)
    return found


def choices(build, runs, wanted, results, say):
    names = {row: name for row, name in CHOICES.items() if re.search(wanted, row)}
    if not names:
        return
    found = benchmarks(build, "selector_bench", "choose/latency", runs, say)
    for row, name in names.items():
        for run in found.get(name, []):
            results.add(row, "ns", True, "marchproxy", run["cpu_time"])


def probes(build, runs, wanted, results, say):
    """5,000 targets each 200 ms: the share of a core, what the targets' side costs counted with it."""
    for kind in KINDS:
        row = f"routing-probes-{kind}"
        if not re.search(wanted, row):
            continue
        for runs_of in benchmarks(build, "prober_bench", f"probe_5000/{kind}/", runs, say).values():
            for run in runs_of:
                results.add(row, "cores", True, "marchproxy", run["core_share"])
        if kind == "tcp":
            for subject, name in SYSTEM_CALLS.items():
                for runs_of in benchmarks(build, "prober_bench", name, runs, say).values():
                    for run in runs_of:
                        results.add(row, "cores", True, subject, run["cpu_time"] * 1e-6 * PROBES_A_SECOND)
        if kind == "tcp" and shutil.which("haproxy"):
            for _ in range(runs):
                case = play("", "haproxy", "checks", say)
                if case:
                    results.add(row, "cores", True, "haproxy", case["cores"])
                    say(f"{row} haproxy: {case}")
