"""TCP and small UDP packets through the packet plane between network namespaces, beside the kernel's own forwarding: how
much, and what it costs the machine. Client, proxy and endpoint share its processors, so that the cost of all three is
counted for each subject alike; what differs is the way through the middle."""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time

from processes import BenchError

TCP_ROWS = ("packet-tcp-throughput", "packet-tcp-cpu")
UDP_ROWS = ("packet-udp-rate", "packet-udp-cpu")
ROWS = TCP_ROWS + UDP_ROWS
FLOWS = 10_000  # of small packets; one endpoint's ports for nat are thrice as many
VIP, ENDPOINT, PORT = "10.95.9.1", "10.95.2.2", 5201


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class World:
    """Client, middle and endpoint, joined by veth pairs."""

    def __init__(self):
        self.client, self.middle, self.endpoint = (f"mpb{os.getpid()}{part}" for part in "cme")

    def __enter__(self):
        for name in (self.client, self.middle, self.endpoint):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.join(self.client, "10.95.1", "client0")
        self.join(self.endpoint, "10.95.2", "endpoint0")
        # Some of the clients drawn are in 127.0.0.0/8, which the stack would drop.
        self.inside(self.middle, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0",
                    "net.ipv4.conf.client0.rp_filter=0", "net.ipv4.conf.client0.route_localnet=1")
        return self

    def __exit__(self, *_):
        for name in (self.client, self.middle, self.endpoint):
            run("ip", "netns", "del", name, check=False)

    def join(self, outer, network, device):
        run("ip", "-n", outer, "link", "add", "up0", "type", "veth", "peer", "name", device, "netns", self.middle)
        for name, link, host in ((outer, "up0", 2), (self.middle, device, 1)):
            run("ip", "-n", name, "address", "add", f"{network}.{host}/24", "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
        run("ip", "-n", outer, "route", "add", "default", "via", f"{network}.1")

    def inside(self, name, *command, check=True):
        return run("ip", "netns", "exec", name, *command, check=check)


@contextlib.contextmanager
def marchproxy(world, binary, mode):
    for name in (world.client, world.endpoint):
        # XDP sees packets before their checksums are computed, and cannot take merged ones; TC can do both.
        world.inside(name, "ethtool", "-K", "up0", "tx", "off" if mode == "native" else "on", "gro", "on")
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "bench.json")
        with open(config, "w", encoding="utf-8") as stream:
            json.dump({"admin": {"port": 8099}, "log": {"level": "ERROR"},
                       "packet": {"interfaces": ["client0", "endpoint0"], "mode": mode, "max_flows": 100_000,
                                  "pin": f"/sys/fs/bpf/mpb{os.getpid()}"},
                       "services": [{"name": protocol, "protocol": protocol, "plane": "packet", "listen": f"{VIP}:{PORT}",
                                     "endpoints": [{"address": f"{ENDPOINT}:{PORT}"}]} for protocol in ("tcp", "udp")]},
                      stream)
        enter = ["ip", "netns", "exec", world.middle, binary]
        with subprocess.Popen([*enter, "run", "-c", config], stderr=subprocess.DEVNULL) as child:
            try:
                for _ in range(200):
                    if "ready" in world.inside(world.middle, binary, "status", "--admin", "http://127.0.0.1:8099", check=False):
                        break
                    time.sleep(0.1)
                yield VIP
            finally:
                child.terminate()
                child.wait(10)
                run(*enter, "detach", "-c", config, check=False)


@contextlib.contextmanager
def nftables(world):
    rules = (f"table ip bench {{\nchain pre {{\ntype nat hook prerouting priority -100;\n"
             f"ip daddr {VIP} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {ENDPOINT}:{PORT}\n}}\nchain post {{\n"
             f"type nat hook postrouting priority 100;\nip daddr {ENDPOINT} masquerade\n}}\n}}\n")
    subprocess.run(["ip", "netns", "exec", world.middle, "nft", "-f", "-"], input=rules, text=True, check=True)
    yield VIP


@contextlib.contextmanager
def direct(_world):
    yield ENDPOINT


@contextlib.contextmanager
def empty(_world):
    yield VIP


def busy_seconds():
    """Of all processors since the machine started; without waiting, idling, and what the host took for others."""
    with open("/proc/stat", encoding="ascii") as stream:
        ticks = [int(word) for word in stream.readline().split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def transfer(world, target, seconds):
    """Gbit/s, and CPU seconds of the machine a GB."""
    server = subprocess.Popen(["ip", "netns", "exec", world.endpoint, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        before = busy_seconds()
        answer = json.loads(world.inside(world.client, "iperf3", "-c", target, "-t", str(seconds), "-J", check=False))
        spent = busy_seconds() - before
        if "error" in answer:
            raise BenchError(f"iperf3: {answer['error']}")
        received = answer["end"]["sum_received"]
        return received["bits_per_second"] / 1e9, spent / (received["bytes"] / 1e9)
    finally:
        server.terminate()
        server.wait(5)


def address_of(world, link):
    return json.loads(run("ip", "-n", world.middle, "-j", "link", "show", link))[0]["address"]


def flood(world, build, subject, target, seconds):
    """Packets a second at the endpoint, and microseconds of the machine's CPU for each. What is `empty` ends where the
    others' way through the middle begins."""
    # A veth takes frames that are no buffers of the kernel's only where it polls: with an XDP program, or to merge them.
    world.inside(world.middle, "ethtool", "-K", "client0", "gro", "on")
    end, expected = (f"{world.middle}:client0", VIP) if subject == "empty" else (f"{world.endpoint}:up0", ENDPOINT)
    answer = json.loads(run(
        os.path.join(build, "bench", "packet_rate"), "--objects", os.path.join(build, "bench", "packet"),
        "--from", f"{world.client}:up0", "--to", end, "--next-hop", address_of(world, "client0"),
        "--target", f"{target}:{PORT}", "--expect", f"{expected}:{PORT}", "--flows", str(FLOWS), "--seconds", str(seconds)))
    if answer["arrived"] < 0.5 * answer["sent"]:
        raise BenchError(f"only {answer['arrived']} of {answer['sent']} packets came to the endpoint")
    return answer["arrived"] / answer["seconds"], answer["busy_seconds"] * 1e6 / answer["arrived"]


def measure_tcp(ways, runs, seconds, results, say):
    for _ in range(runs):
        for subject, way in ways.items():
            try:
                with World() as world, way(world) as target:
                    rate, cost = transfer(world, target, seconds)
            except BenchError as problem:
                say(f"packet-tcp {subject}: {problem}")
                continue
            results.add(TCP_ROWS[0], "Gbit/s", False, subject, rate)
            results.add(TCP_ROWS[1], "CPU s/GB", True, subject, cost)
            say(f"packet-tcp {subject}: {rate:.1f} Gbit/s, {cost:.2f} CPU s/GB")


def measure_udp(ways, build, runs, seconds, results, say):
    for _ in range(runs):
        for subject, way in ways.items():
            try:
                with World() as world, way(world) as target:
                    rate, cost = flood(world, build, subject, target, seconds)
            except BenchError as problem:
                say(f"packet-udp {subject}: {problem}")
                continue
            results.add(UDP_ROWS[0], "packets/s", False, subject, rate)
            results.add(UDP_ROWS[1], "CPU us/packet", True, subject, cost)
            say(f"packet-udp {subject}: {rate / 1e6:.2f} million packets/s, {cost:.2f} CPU us/packet")


def measure(build, binary, runs, seconds, wanted, results, say):
    ways = {"marchproxy": lambda world: marchproxy(world, binary, "native"),
            "marchproxy-tc": lambda world: marchproxy(world, binary, "tc"), "nftables": nftables, "direct": direct}
    if any(re.search(wanted, row) for row in TCP_ROWS):
        measure_tcp(ways, runs, seconds, results, say)
    if any(re.search(wanted, row) for row in UDP_ROWS):
        measure_udp(ways | {"empty": empty}, build, runs, seconds, results, say)
