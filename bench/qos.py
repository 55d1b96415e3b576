"""Rates, guarantees, priorities and queues between network namespaces, in both planes, beside the kernel's own schedulers
behind its own forwarding: HTB and TBF on the way to the endpoint. And what the scheduler itself costs."""

import contextlib
import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time

from packet_net import ENDPOINT, VIP, World, run
from processes import BenchError

PORTS = range(5201, 5205)
ECHO = 5300
RATES = {"1M": 1e6, "10M": 1e7, "100M": 1e8, "1G": 1e9, "10G": 1e10}
UDP_RATES = ("1M", "10M", "100M")
LINK = 1e9  # for the delay of P0
LOAD = ("taskset", "-c", "0")
FRAME = {"tcp": 1514 / 1448, "udp": 1242 / 1200}  # bytes for those of payload
SUBJECTS = ("marchproxy", "marchproxy-packet", "htb", "tbf")
CLASSES = (10, 1_000, 10_000)
RATE_ROWS = [f"qos-{protocol}-{what}-{rate}" for protocol, rates in (("tcp", RATES), ("udp", UDP_RATES)) for rate in rates
             for what in ("rate", "peak")]
ROWS = [*RATE_ROWS, "qos-guarantee", "qos-p0-idle-p99", "qos-p0-loaded-p99", "qos-p3-share", "qos-fairness-64", "qos-codel-50M",
        *(f"qos-scheduler-{kind}-{count}" for kind in ("turns", "ceilings", "guarantees") for count in CLASSES)]


def row_names(wanted):
    return [name for name in ROWS if re.search(wanted, name)]


def text_of(bits):
    return f"{bits / 1e6:g}Mbps"


class Way:
    """From the client to the endpoint; what `limits` says, by port: rate, guarantee, priority. bits/s."""

    def __init__(self, world, binary, build):
        self.world, self.binary, self.build = world, binary, build
        self.target = VIP
        self.far = []  # the endpoint's processes
        self.process = None  # the proxy

    @contextlib.contextmanager
    def holding(self, limits, link=None):
        raise NotImplementedError


class Project(Way):
    def __init__(self, world, binary, build, plane):
        super().__init__(world, binary, build)
        self.plane = plane
        if plane == "stream":
            self.target = "10.95.1.1"

    @contextlib.contextmanager
    def holding(self, limits, link=None):
        for name in (self.world.client, self.world.endpoint):
            self.world.inside(name, "ethtool", "-K", "up0", "tx", "off" if self.plane == "packet" else "on", "gro", "on")
        services = []
        for port, wanted in limits.items():
            qos = {key: text_of(value) if key in ("rate", "guarantee") else value for key, value in wanted.items()}
            services += [{"name": f"{protocol}-{port}", "protocol": protocol, "plane": self.plane, "listen": f"{self.target}:{port}",
                          "qos": qos if protocol == wanted.get("of", protocol) else {},
                          "endpoints": [{"address": f"{ENDPOINT}:{port}"}]} for protocol in ("tcp", "udp")]
        for service in services:
            service["qos"].pop("of", None)
        qos = {"enabled": True, **({"link_rate": text_of(link), "floors": {"P1": "5%", "P2": "5%", "P3": "5%"}} if link else {})}
        packet = {"interfaces": ["client0", "endpoint0"], "mode": "native", "max_flows": 100_000,
                  "pin": f"/sys/fs/bpf/mpb{os.getpid()}"}
        tree = {"admin": {"port": 8099}, "log": {"level": "ERROR"}, "services": services, "qos": qos,
                "packet": packet if self.plane == "packet" else {"enabled": False}}
        with tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "bench.json")
            with open(config, "w", encoding="utf-8") as stream:
                json.dump(tree, stream)
            enter = ["ip", "netns", "exec", self.world.middle, self.binary]
            with subprocess.Popen([*enter, "run", "-c", config], stderr=subprocess.DEVNULL) as child:
                self.process = child
                try:
                    self.wait()
                    yield
                finally:
                    child.terminate()
                    child.wait(10)
                    if self.plane == "packet":
                        run(*enter, "detach", "-c", config, check=False)

    def wait(self):
        for _ in range(200):
            if "ready" in self.ask("status"):
                return
            time.sleep(0.1)
        raise BenchError("the proxy does not get ready")

    def ask(self, *command):
        return self.world.inside(self.world.middle, self.binary, *command, "--admin", "http://127.0.0.1:8099", check=False)

    def delay(self, port, rate):
        """What waiting for a turn took lately, and what is before it in receive buffers takes at that rate, in seconds."""
        rows = json.loads(self.ask("qos", "--json") or "[]")
        turn = max((row["delay_seconds"] for row in rows if row["service"] == f"tcp-{port}" and row["direction"] == "up"), default=0)
        sockets = self.world.inside(self.world.middle, "ss", "-Htn", "sport", "=", f":{port}").splitlines()
        return turn + sum(int(socket.split()[1]) for socket in sockets) * 8 / rate


class Kernel(Way):
    """Forwarding with nftables, and a queueing discipline on the way out."""

    def __init__(self, world, binary, build, kind):
        super().__init__(world, binary, build)
        self.kind = kind

    @contextlib.contextmanager
    def holding(self, limits, link=None):
        for name in (self.world.client, self.world.endpoint):
            self.world.inside(name, "ethtool", "-K", "up0", "tx", "on", "gro", "on")
        turns = "\n".join(f"meta l4proto {{ tcp, udp }} th dport {port} meta priority set 1:{port - 5190}" for port in limits)
        rules = (f"table ip bench {{\nchain pre {{\ntype nat hook prerouting priority -100;\n"
                 f"ip daddr {VIP} dnat to {ENDPOINT}\n}}\nchain post {{\ntype nat hook postrouting priority 100;\n"
                 f"ip daddr {ENDPOINT} masquerade\n}}\nchain turns {{\ntype filter hook forward priority 0;\n{turns}\n}}\n}}\n")
        subprocess.run(["ip", "netns", "exec", self.world.middle, "nft", "-f", "-"], input=rules, text=True, check=True)
        # Its schedulers count frames, and what is configured here is payload.
        framed = {port: {key: value * FRAME[wanted.get("of", "tcp")] if key in ("rate", "guarantee") else value
                         for key, value in wanted.items()} for port, wanted in limits.items()}
        link = link and link * FRAME["tcp"]
        tc = lambda *words: self.world.inside(self.world.middle, "tc", *words)  # noqa: E731
        if self.kind == "tbf":
            rate = next(iter(framed.values()))["rate"]
            tc("qdisc", "add", "dev", "endpoint0", "root", "tbf", "rate", f"{rate:.0f}bit", "burst", f"{burst(rate)}", "latency", "50ms")
        else:
            tc("qdisc", "add", "dev", "endpoint0", "root", "handle", "1:", "htb", "default", "99")
            whole = f"{link or 1e11:.0f}bit"
            tc("class", "add", "dev", "endpoint0", "parent", "1:", "classid", "1:1", "htb", "rate", whole, "burst", f"{burst(link or 1e10)}")
            for port, wanted in framed.items():
                rate = wanted.get("guarantee", wanted.get("rate", (link or 1e9) * 0.05))
                ceiling = wanted.get("rate", link or rate)
                tc("class", "add", "dev", "endpoint0", "parent", "1:1", "classid", f"1:{port - 5190}", "htb", "rate", f"{rate:.0f}bit",
                   "ceil", f"{ceiling:.0f}bit", "burst", f"{burst(rate)}", "cburst", f"{burst(ceiling)}",
                   "prio", wanted.get("priority", "P3")[1])
        try:
            yield
        finally:
            tc("qdisc", "del", "dev", "endpoint0", "root")


def burst(rate):
    """5 ms worth, as ours, and at least a packet; merged ones are cut by the kernel's schedulers."""
    return max(int(rate / 8 * 0.005), 1600)


@contextlib.contextmanager
def servers(world, build):
    """An iperf3 server for each port, and an echo."""
    inside = ["ip", "netns", "exec", world.endpoint]
    children = [subprocess.Popen([*inside, "iperf3", "-s", "-J", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for port in PORTS]
    children.append(subprocess.Popen([*inside, os.path.join(build, "bench", "loadserver"), "--tcp", f"{ENDPOINT}:{ECHO}"],
                                     stdout=subprocess.DEVNULL))
    try:
        time.sleep(0.3)
        yield children
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(5)


def iperf(way, port, *options, on=()):
    """What the endpoint got: its own account."""
    said = way.world.inside(way.world.client, *on, "iperf3", "-J", "--get-server-output", "-c", way.target, "-p", str(port), *options,
                            check=False)
    answer = json.loads(said)
    if "error" in answer:
        raise BenchError(f"iperf3: {answer['error']}")
    return answer["server_output_json"]


def measure_rate(way, protocol, rate):
    """Achieved over configured in five seconds, and in the highest one; the first second is for the slow start."""
    offered = () if protocol == "tcp" else ("-u", "-l", "1200", "-b", f"{rate * 1.5:.0f}")
    with way.holding({5201: {"rate": rate, "of": protocol}}):
        intervals = iperf(way, 5201, "-t", "6", *offered)["intervals"]
    seconds = [interval["sum"]["bits_per_second"] / rate for interval in intervals[1:6]]
    if len(seconds) < 5:
        raise BenchError(f"only {len(seconds)} seconds")
    return statistics.mean(seconds), max(seconds)


def at_once(*tasks):
    results = [None] * len(tasks)

    def work(i):
        results[i] = tasks[i]()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(result is None for result in results):
        raise BenchError("one of several loads failed")
    return results


def received(way, port, seconds, on=()):
    intervals = iperf(way, port, "-t", str(seconds), on=on)["intervals"][1:seconds]
    return statistics.mean(interval["sum"]["bits_per_second"] for interval in intervals)


def measure_guarantee(way):
    """Of 30 of 100 Mbit/s, for a service of P3 under three others that send with P0, P1 and P2."""
    limits = {5201: {"guarantee": 30e6, "priority": "P3"}}
    limits.update({port: {"priority": f"P{i}"} for i, port in enumerate(PORTS[1:])})
    with way.holding(limits, 100e6):
        return at_once(*[lambda port=port: received(way, port, 5) for port in PORTS])[0] / 30e6


def apart(way):
    """Loads on the first processor and a proxy on the others, which it would have to itself where it is used in earnest:
    else the delay is that of waiting for the loads' turns on a processor."""
    if os.cpu_count() < 2:
        return
    for child in way.far:
        run("taskset", "-a", "-c", "-p", "0", str(child.pid))
    if way.process:
        run("taskset", "-a", "-c", "-p", f"1-{os.cpu_count() - 1}", str(way.process.pid))


def pingpong(way, seconds):
    answer = way.world.inside(way.world.client, *LOAD, os.path.join(way.build, "bench", "loadgen"), "pingpong", "--target",
                              f"{way.target}:{ECHO}", "--seconds", str(seconds), "--warmup", "0.5", "--rate", "1000")
    return json.loads(answer)["p99"]


def measure_delay(way):
    """64 bytes there and back, a thousand times a second with P0: p99 while nothing else comes, and while P3 fills the link."""
    with way.holding({ECHO: {"priority": "P0"}, 5201: {"priority": "P3"}}, LINK):
        apart(way)
        idle = pingpong(way, 3)
        got, loaded = at_once(lambda: received(way, 5201, 6, LOAD), lambda: (time.sleep(1.5), pingpong(way, 3))[1])
    return idle, loaded, got / LINK


def measure_fairness(way):
    """Jain's index of 64 connections of one service at 100 Mbit/s."""
    with way.holding({5201: {"rate": 100e6, "of": "tcp"}}):
        streams = iperf(way, 5201, "-t", "6", "-P", "64")["end"]["streams"]
    rates = [stream["receiver"]["bits_per_second"] for stream in streams]
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def measure_codel(way):
    """How long the packets of one TCP connection wait at 50 Mbit/s: the median of what is told ten times a second, in ms."""
    delays = []
    with way.holding({5201: {"rate": 50e6, "of": "tcp"}}):
        thread = threading.Thread(target=lambda: iperf(way, 5201, "-t", "5"))
        thread.start()
        time.sleep(1)
        while thread.is_alive():
            delays.append(way.delay(5201, 50e6))
            time.sleep(0.05)
        thread.join()
    return statistics.median(delays[:-10]) * 1e3


def measure_scheduler(build, wanted, results, say):
    command = [os.path.join(build, "scheduler_bench"), "--benchmark_min_time=0.2", "--benchmark_format=json"]
    answer = json.loads(run(*command))
    for row in answer["benchmarks"]:
        kind, count = re.fullmatch(r"(?:enqueue_and_dequeue/)?(\w+)/(\d+).*", row["name"]).groups()
        alone = kind == "lines_alone"
        name, subject = f"qos-scheduler-{'turns' if alone else kind}-{count}", "lines alone" if alone else "marchproxy"
        if re.search(wanted, name):
            results.add(name, "ns/packet", True, subject, 1e9 / row["items_per_second"])
            say(f"{name}, {subject}: {1e9 / row['items_per_second']:.0f} ns")


# By the rows that they give: (rows, unit and whether less is better of each, the measure, whose).
def measures():
    every = SUBJECTS
    for protocol, rates in (("tcp", RATES), ("udp", UDP_RATES)):
        for name in rates:
            rows = [(f"qos-{protocol}-rate-{name}", "of the rate", False), (f"qos-{protocol}-peak-{name}", "of the rate", True)]
            yield rows, lambda way, protocol=protocol, name=name: measure_rate(way, protocol, RATES[name]), every
    yield [("qos-guarantee", "of it", False)], measure_guarantee, ("marchproxy", "marchproxy-packet", "htb")
    yield ([("qos-p0-idle-p99", "us", True), ("qos-p0-loaded-p99", "us", True), ("qos-p3-share", "of the link", False)], measure_delay,
           ("marchproxy", "marchproxy-packet", "htb"))
    yield [("qos-fairness-64", "Jain", False)], measure_fairness, every
    yield [("qos-codel-50M", "ms", True)], measure_codel, ("marchproxy", "marchproxy-packet")


def way_of(subject, world, binary, build):
    if subject in ("htb", "tbf"):
        return Kernel(world, binary, build, subject)
    return Project(world, binary, build, "packet" if subject == "marchproxy-packet" else "stream")


def measure(build, binary, runs, wanted, results, say):
    for _ in range(runs):
        for rows, take, subjects in measures():
            if not any(re.search(wanted, name) for name, _, _ in rows):
                continue
            for subject in subjects:
                try:
                    with World() as world, servers(world, build) as far:
                        way = way_of(subject, world, binary, build)
                        way.far = far
                        values = take(way)
                except (BenchError, KeyError, ValueError) as problem:
                    say(f"{rows[0][0]} {subject}: {problem}")
                    continue
                for (name, unit, lower), value in zip(rows, values if isinstance(values, tuple) else (values,)):
                    results.add(name, unit, lower, subject, value)
                    say(f"{name} {subject}: {value:.4g} {unit}")
        if any(re.search(wanted, name) for name in ROWS if "scheduler" in name):
            measure_scheduler(build, wanted, results, say)
