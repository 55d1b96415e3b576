#!/usr/bin/env python3
"""`make bench`: the project beside HAProxy, nginx and Envoy, in one run on one machine. See docs/benchmarks.md."""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import sys
import time

import measures
import packet
import packet_goals
import packet_net
import peers
import qos
import qos_goals
import report
import routing
import routing_goals
from processes import BenchError, Ports, raise_descriptor_limit, run_tool

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclasses.dataclass
class Effort:
    """How long and how hard one measurement works."""

    runs: int = 5
    iperf_seconds: int = 3
    seconds: float = 1.5
    warmup: float = 0.3
    rate: int = 5_000  # requests a second of the paced bench: at 10,000 the one processor that all share is full
    pairs: int = 10_000


QUICK = Effort(runs=1, iperf_seconds=1, seconds=0.5, warmup=0.1, pairs=2_000)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help="regular expression of row names")
    parser.add_argument("--subjects", default="", help="regular expression of subjects")
    parser.add_argument("--runs", type=int, help="rounds over all subjects (default 5)")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work at all?")
    parser.add_argument("--rate", type=int, help="requests a second of the paced bench (default 5000)")
    parser.add_argument("--build", default=os.path.join(REPOSITORY, "build"), help="build directory")
    parser.add_argument("--binary", help="the project's binary (default: build/marchproxy-l3l4)")
    parser.add_argument("--out", default=os.path.join(REPOSITORY, "bench", "out"), help="where results go")
    parser.add_argument("--list", action="store_true", help="print the names of all rows")
    return parser.parse_args()


def choose_effort(arguments, descriptors):
    effort = dataclasses.replace(QUICK) if arguments.quick else Effort()
    if arguments.runs:
        effort.runs = arguments.runs
    if arguments.rate:
        effort.rate = arguments.rate
    # A proxy needs two descriptors a pair, and some of its own (HAProxy's are reserved for its pipes).
    effort.pairs = min(effort.pairs, (descriptors - 1500) // 2 // 100 * 100)
    return effort


def check_tools(arguments, streams, packets, shaped, routed):
    """What the wanted rows need, and nothing else."""
    between_namespaces = set(packets) & set(packet_net.ROWS)
    programs = ["iperf3", "taskset"] if streams else []
    programs += ["iperf3", "ip", "nft", "ethtool"] if between_namespaces or shaped else []
    programs += ["tc", "taskset"] if shaped else []
    programs += ["unshare", "ip", "nft"] if set(routed) & set(routing.OUTAGE_ROWS) else []
    for program in programs:
        if not shutil.which(program):
            raise BenchError(f"{program} is not installed: run scripts/setup.sh --test --bench")
    tools = ["loadgen", "loadserver"] if streams or shaped else []
    tools += ["packet_cost", "packet_live", "packet_rate"] if packets else []
    paths = [os.path.join(arguments.build, "bench", tool) for tool in tools]
    for path in paths + [os.path.join(arguments.build, tool) for tool in routing.tools(arguments.only)]:
        if not os.access(path, os.X_OK):
            raise BenchError(f"{path} is not built: run `make bench`, or `ninja -C {arguments.build} bench_tools`")


def choose_subjects(arguments, endpoints, ports, directory, descriptors):
    """The subjects that can run here; says which cannot and why."""
    peers.Marchproxy.binary = arguments.binary or os.path.join(arguments.build, "marchproxy-l3l4")
    chosen = []
    for kind in peers.ALL:
        if not re.search(arguments.subjects, kind.name):
            continue
        if kind is peers.Envoy:
            kind.binary = peers.find_envoy(arguments.build)
        subject = kind(endpoints, ports, directory, descriptors)
        reason = subject.missing() or subject.find_version()
        if reason:
            say(f"{kind.name}: {reason}; left out")
        else:
            chosen.append(subject)
    if not chosen:
        raise BenchError("there is nothing to measure")
    return chosen


def describe_machine(subjects, descriptors, streams):
    def read(path):
        with contextlib.suppress(OSError), open(path) as file:
            return file.read().strip()
        return "unknown"

    model = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    commit = "unknown"
    with contextlib.suppress(BenchError, OSError):
        commit = run_tool("git", ["git", "-C", REPOSITORY, "rev-parse", "--short=12", "HEAD"], 10).strip()
    return {
        "processor": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "descriptor_limit": descriptors,
        "load_at_start": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit,
        "iperf3": run_tool("iperf3 --version", ["iperf3", "--version"], 10).split()[1] if streams else None,
        "versions": {subject.name: subject.version for subject in subjects if subject.is_proxy},
    }


def machine_line(machine):
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    tools = f"{versions}; iperf3 {machine['iperf3']}; " if machine["iperf3"] else ""
    return (
        f"{machine['cores']} cores ({machine['processor']}), kernel {machine['kernel']}, congestion control "
        f"{machine['congestion_control']}, {machine['descriptor_limit']} descriptors, load {machine['load_at_start']} "
        f"at start; {tools}commit {machine['commit']}"
    )


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def take_with_retry(measure, subject, rig):
    """The values, or None after two failures; what has ended is started again."""
    for attempt in (1, 2):
        try:
            return measure.take(subject, rig)
        except (BenchError, OSError, ValueError) as error:
            say(f"  {subject.name}: {error}" + (", once more" if attempt == 1 else ", given up"))
        try:
            rig.revive()
            subject.revive()
        except BenchError as error:
            say(f"  {error}")
            return None
    return None


def measure_round(number, chosen_measures, subjects, rig, results, wanted):
    """Every measure over every subject once. Who begins moves on by one each round, so that drift hits all alike."""
    order = subjects[number % len(subjects) :] + subjects[: number % len(subjects)]
    for measure in chosen_measures:
        if measure.rounds is not None and number >= measure.rounds:
            continue
        names = measure.row_names(wanted)
        found = []
        for subject in order:
            applies = any(re.search(subject.only, name) for name in names) if subject.only else measure.applies(subject)
            values = take_with_retry(measure, subject, rig) if applies else None
            for name in names:
                if values and name in values:
                    results.add(name, *measure.rows[name], subject.name, values[name])
            if values and names[0] in values:
                found.append(f"{subject.name} {report.shown(values[names[0]])}")
        say(f"round {number + 1}/{rig.effort.runs} {names[0]} ({measure.rows[names[0]][0]}): {', '.join(found)}")


def write_results(directory, results, machine, subjects):
    names = [subject.name for subject in subjects]
    packets = set(packet.row_names(""))
    streams = [row for row in results.row_names() if row not in packets and row not in (*qos.ROWS, *routing.ROWS)]
    parts = [
        report.figures_table(results, names, streams),
        report.targets_table(results),
        report.figures_table(results, packet.SUBJECTS, [row for row in results.row_names() if row in packets]),
        report.goals_table("packet plane", packet_goals.goals(results)),
        report.figures_table(results, qos.SUBJECTS, [row for row in results.row_names() if row in qos.ROWS]),
        report.goals_table("qos", qos_goals.goals(results)),
        report.figures_table(results, routing.SUBJECTS, [row for row in results.row_names() if row in routing.ROWS]),
        report.goals_table("routing", routing_goals.goals(results)),
        machine_line(machine),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    for name, content in (
        ("results.json", json.dumps(results.as_json(), indent=1) + "\n"),
        ("machine.json", json.dumps(machine, indent=1) + "\n"),
        ("table.md", text),
    ):
        with open(os.path.join(directory, name), "w") as file:
            file.write(content)
    return text


def measure_streams(arguments, effort, chosen_measures, subjects, endpoints, work, results, machine):
    """Every round over every proxy; what is there so far is written after each."""
    with contextlib.ExitStack() as stack:
        rig = stack.enter_context(measures.Rig(os.path.join(arguments.build, "bench"), endpoints, work, effort))
        for subject in list(subjects):
            stack.callback(subject.stop)
            try:
                subject.start()
            except BenchError as error:
                say(f"{error}; left out")
                subjects.remove(subject)
        for number in range(effort.runs):
            measure_round(number, chosen_measures, subjects, rig, results, arguments.only)
            write_results(arguments.out, results, machine, subjects)


def run(arguments):
    chosen_measures = [measure for measure in measures.all_measures() if measure.row_names(arguments.only)]
    if arguments.list:
        names = [name for measure in chosen_measures for name in measure.row_names(arguments.only)]
        print("\n".join(names + [name for kind in (packet, qos, routing) for name in kind.row_names(arguments.only)]))
        return
    packets, shaped, routed = (kind.row_names(arguments.only) for kind in (packet, qos, routing))
    if not chosen_measures and not packets and not shaped and not routed:
        raise BenchError(f"no row's name matches '{arguments.only}'; `bench/run.py --list` prints them")
    check_tools(arguments, chosen_measures, packets, shaped, routed)
    descriptors = raise_descriptor_limit()
    effort = choose_effort(arguments, descriptors)
    work = os.path.join(arguments.out, "run")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    ports = Ports()
    endpoints = peers.Endpoints(ports)
    # Looking for peers may install one.
    subjects = choose_subjects(arguments, endpoints, ports, work, descriptors) if chosen_measures else []
    machine = describe_machine(subjects, descriptors, chosen_measures)
    if machine["load_at_start"] > 0.5:
        say(f"the machine is busy (load {machine['load_at_start']}): figures will suffer")

    results = report.Results()
    if chosen_measures:
        measure_streams(arguments, effort, chosen_measures, subjects, endpoints, work, results, machine)
    binary = arguments.binary or os.path.join(arguments.build, "marchproxy-l3l4")
    packet.measure(arguments.build, binary, effort, arguments.only, results, say)
    qos.measure(arguments.build, binary, effort.runs, arguments.only, results, say)
    routing.measure(arguments.build, binary, effort.runs, arguments.only, results, say)
    table = write_results(arguments.out, results, machine, subjects)
    print("\n" + table)
    say(f"the same in {os.path.join(arguments.out, 'results.json')}")


def main():
    # SIGTERM ends as Ctrl-C does: through every `with` that stops a process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(parse_arguments())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
