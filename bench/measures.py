"""What is measured: each measure takes one subject once and gives one value for each of its rows."""

import contextlib
import json
import os
import re
import select
import time

from peers import Subject
from processes import BenchError, Child, cpu_seconds, place, private_bytes, run_tool, wait_listening


class Rig:
    """The load tools, the real servers, and how long and how hard to measure."""

    def __init__(self, tools, endpoints, directory, effort):
        self.loadgen = os.path.join(tools, "loadgen")
        self.loadserver = os.path.join(tools, "loadserver")
        self.endpoints, self.directory, self.effort = endpoints, directory, effort
        self.iperf_server = None
        self.server = None

    def __enter__(self):
        self.start_server()
        self.start_iperf_server()
        return self

    def __exit__(self, *_):
        for child in (self.iperf_server, self.server):
            if child:
                child.stop()

    def revive(self):
        """Starts again whichever real server has ended."""
        if not self.server.alive():
            self.server.stop()
            self.start_server()
        if not self.iperf_server.alive():
            self.start_iperf_server()

    def start_server(self):
        first, ports = self.endpoints.small, len(self.endpoints.small_ports())
        argv = [self.loadserver, "--tcp", f"127.0.0.1:{first}", "--ports", str(ports)]
        self.server = Child("loadserver", argv + ["--udp", f"127.0.0.1:{self.endpoints.udp}"], self.log("loadserver"))
        wait_listening(self.server, first + ports - 1)

    def start_iperf_server(self):
        if self.iperf_server:
            self.iperf_server.stop()
        argv = ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(self.endpoints.bulk)]
        self.iperf_server = Child("iperf3 -s", argv, self.log("iperf3"))
        wait_listening(self.iperf_server, self.endpoints.bulk)

    def log(self, name):
        return os.path.join(self.directory, f"{name}.log")

    def load(self, mode, port, *options, cpu=None, seconds=None):
        """Runs loadgen to its end and returns what it found."""
        seconds = seconds or self.effort.seconds
        timing = ["--seconds", str(seconds), "--warmup", str(self.effort.warmup)]
        argv = [self.loadgen, mode, "--target", f"127.0.0.1:{port}", *timing, *options]
        if cpu is not None:
            argv = ["taskset", "-c", str(cpu), *argv]
        return json.loads(run_tool(f"loadgen {mode}", argv, seconds + self.effort.warmup + 30))


class Measure:
    """`rows` maps a row's name to (unit, whether a lower value is better)."""

    rows = {}
    rounds = None  # takes part in the first so many alone

    def applies(self, subject: Subject):
        return True

    def take(self, subject: Subject, rig: Rig):
        raise NotImplementedError

    def row_names(self, wanted):
        return [name for name in self.rows if re.search(wanted, name)]


class CpuClock:
    """CPU seconds that a subject's processes use while the block runs; None for a subject without any."""

    def __init__(self, subject):
        self._subject, self.seconds = subject, None

    def __enter__(self):
        self._pids = self._subject.pids()
        self._before = cpu_seconds(self._pids)
        return self

    def __exit__(self, kind, *_):
        if kind is None and self._subject.pids():
            self.seconds = cpu_seconds(self._pids) - self._before


class Throughput(Measure):
    """iperf3 through the `bulk` service. `up` is client to server, `down` its -R."""

    def __init__(self, connections, direction):
        self._connections, self._direction = connections, direction
        self._rate, self._cpu = f"throughput-{connections}-{direction}", f"cpu-{connections}-{direction}"
        self.rows = {self._rate: ("Gbit/s", False), self._cpu: ("CPU s/GB", True)}

    def take(self, subject, rig):
        with CpuClock(subject) as clock:
            bits_per_second, received = self._iperf(subject.bulk, rig)
        values = {self._rate: bits_per_second / 1e9}
        if clock.seconds is not None:
            values[self._cpu] = clock.seconds / (received / 1e9)
        return values

    def _iperf(self, port, rig):
        argv = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-J", "-t", str(rig.effort.iperf_seconds)]
        argv += ["-P", str(self._connections)] + (["-R"] if self._direction == "down" else [])
        try:
            answer = json.loads(run_tool("iperf3", argv, rig.effort.iperf_seconds + 15))
            received = answer.get("end", {}).get("sum_received", {})
            if not received.get("bytes"):
                raise BenchError(f"iperf3 has moved no byte: {answer.get('error', 'it does not say why')}")
            return received["bits_per_second"], received["bytes"]
        except (BenchError, ValueError):
            rig.start_iperf_server()  # one that lost its client may serve no other
            raise


def quantile_rows(prefix):
    return {f"{prefix}-{quantile}": ("us", True) for quantile in ("p50", "p99", "p999")}


def quantile_values(prefix, result):
    return {f"{prefix}-{quantile}": result[quantile] for quantile in ("p50", "p99", "p999")}


@contextlib.contextmanager
def on_one_processor(subject, rig):
    """Client, proxy and server on one processor that never halts, so that what is measured is the way through the
    proxy and neither the scheduler's placement nor a virtual processor's wake-up. Gives the processor."""
    everywhere = os.sched_getaffinity(0)
    cpu = max(everywhere)
    pids = subject.pids() + [rig.server.pid]
    argv = [rig.loadgen, "awake", "--cpu", str(cpu)]
    with Child("loadgen awake", argv, rig.log("awake"), pipes=True):
        place(pids, {cpu})
        try:
            yield cpu
        finally:
            place(pids, everywhere)


class ClosedLoop(Measure):
    """One kept connection, 64 bytes there and back as fast as they go."""

    rows = quantile_rows("kept")

    def take(self, subject, rig):
        with on_one_processor(subject, rig) as cpu:
            return quantile_values("kept", rig.load("pingpong", subject.small, cpu=cpu))


class EqualLoad(Measure):
    """32 kept connections at one offered rate for all, latency from the moment a request was due."""

    connections = 32
    rows = quantile_rows("paced") | {"paced-cpu": ("CPU us/request", True)}

    def take(self, subject, rig):
        rate = rig.effort.rate
        with on_one_processor(subject, rig) as cpu, CpuClock(subject) as clock:
            options = ("--connections", str(self.connections), "--rate", str(rate))
            result = rig.load("pingpong", subject.small, *options, cpu=cpu)
        if result["unanswered"] > 0 or result["requests_per_second"] < 0.95 * rate:
            raise BenchError(f"{result['requests_per_second']:.0f} of {rate} requests a second answered")
        values = quantile_values("paced", result)
        if clock.seconds is not None:
            values["paced-cpu"] = clock.seconds * 1e6 / (rate * (rig.effort.seconds + rig.effort.warmup))
        return values


class FreshConnections(Measure):
    """32 at a time: connect, 64 bytes there and back, close."""

    rows = {"fresh-rate": ("connections/s", False)} | quantile_rows("fresh") | {"fresh-cpu": ("CPU us/connection", True)}

    def take(self, subject, rig):
        with CpuClock(subject) as clock:
            result = rig.load("connect", subject.small)
        if result["errors"] > 0:
            raise BenchError(f"{result['errors']} connections failed")
        rate = result["connections_per_second"]
        values = {"fresh-rate": rate} | quantile_values("fresh", result)
        if clock.seconds is not None:
            values["fresh-cpu"] = clock.seconds * 1e6 / (rate * (rig.effort.seconds + rig.effort.warmup))
        return values


class Datagrams(Measure):
    """64-byte datagrams echoed; 128 under way over all clients."""

    def __init__(self, clients):
        self._clients = clients
        self._rate, self._loss = f"udp-{clients}", f"udp-{clients}-loss"
        self.rows = {self._rate: ("echoes/s", False), self._loss: ("%", True)}

    def applies(self, subject):
        return subject.has_udp

    def take(self, subject, rig):
        result = rig.load("udp", subject.udp, "--clients", str(self._clients))
        if result["wrong"] > 0:
            raise BenchError(f"{result['wrong']} datagrams came to the wrong client or were cut")
        return {self._rate: result["packets_per_second"], self._loss: result["loss"] * 100}


class IdleMemory(Measure):
    """User-space memory of a held pair of connections, after one exchange on each, in a proxy just started."""

    rows = {"idle-memory": ("bytes/pair", True), "start-memory": ("MB", True)}
    rounds = 2  # hardly moves from one to the next

    def applies(self, subject):
        return subject.is_proxy

    def take(self, subject, rig):
        subject.stop()
        subject.start()
        rig.load("pingpong", subject.small, "--connections", "64", seconds=0.2)  # its code is paged in
        time.sleep(0.3)
        pairs = rig.effort.pairs
        before = private_bytes(subject.pids())
        target = f"127.0.0.1:{subject.small}"
        argv = [rig.loadgen, "idle", "--target", target, "--connections", str(pairs)]
        with Child("loadgen idle", argv, rig.log("idle"), pipes=True) as holder:
            self._wait_open(holder, pairs)
            time.sleep(0.5)
            after = private_bytes(subject.pids())
            if json.loads(holder.close_input(30))["alive"] != pairs:
                raise BenchError("some held connections were closed")
        return {"idle-memory": (after - before) / pairs, "start-memory": before / 1e6}

    @staticmethod
    def _wait_open(holder, pairs):
        if not await_line(holder.process.stdout, 60):
            raise BenchError(f"{pairs} connections could not be opened: {holder.last_words()}")


def await_line(stream, patience):
    """Whether a line arrives within `patience` seconds; consumes it."""
    ready, _, _ = select.select([stream], [], [], patience)
    return bool(ready) and bool(os.read(stream.fileno(), 4096))


def all_measures():
    """In the order of a round: the one that restarts the proxies comes last."""
    throughput = [Throughput(connections, direction) for connections in (1, 16) for direction in ("up", "down")]
    latency = [ClosedLoop(), EqualLoad(), FreshConnections()]
    return throughput + latency + [Datagrams(1), Datagrams(64), IdleMemory()]
