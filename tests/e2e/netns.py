"""Client, proxy and server each in a network namespace of its own, with real links between them. Needs root; skipped by
name elsewhere."""
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import time
import unittest

import proxy
from peers import exchange

CLIENT, SERVER = "10.93.1.2", "10.93.2.2"
PROXY, PROXY_TO_SERVER = "10.93.1.1", "10.93.2.1"
CLIENT6, PROXY6, SERVER6 = "fd93:1::2", "fd93:1::1", "fd93:2::2"
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def checked(command, check=True):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def ip(*arguments):
    checked(["ip", *arguments])


def missing():
    """Why namespaces cannot be had here; empty: they can."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("ip"):
        return "ip is not installed"
    probe = f"mp{os.getpid()}probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this machine refuses network namespaces"
    ip("netns", "del", probe)
    return ""


@contextlib.contextmanager
def inside(name):
    """This thread in the namespace: sockets made and programs started here live there."""
    with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{name}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                os._exit(70)  # a thread in the wrong namespace would make every later test lie


class NamespacedProxy(proxy.Proxy):
    namespace = ""

    def request(self, *arguments, **options):
        with inside(self.namespace):
            return super().request(*arguments, **options)

    def start(self, wait="/readyz"):
        with inside(self.namespace):
            super().start(None)
        if wait:
            self.wait_for(wait)
        return self


class World(proxy.ProxyTest):
    @classmethod
    def setUpClass(cls):
        reason = missing()
        if reason:
            raise unittest.SkipTest(reason)

    def setUp(self):
        super().setUp()
        self.client, self.middle, self.server = (f"mp{os.getpid()}{part}" for part in ("c", "p", "s"))
        for name in (self.client, self.middle, self.server):
            ip("netns", "add", name)
            self.addCleanup(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        self.link(self.client, "up0", f"{CLIENT}/24", f"{CLIENT6}/64", "client0", f"{PROXY}/24", f"{PROXY6}/64")
        self.link(self.server, "up0", f"{SERVER}/24", f"{SERVER6}/64", "server0", f"{PROXY_TO_SERVER}/24", "fd93:2::1/64")

    def link(self, outer, outer_name, outer4, outer6, inner_name, inner4, inner6):
        ip("-n", outer, "link", "add", outer_name, "type", "veth", "peer", "name", inner_name, "netns", self.middle)
        self.give_addresses(outer, outer_name, outer4, outer6)
        self.give_addresses(self.middle, inner_name, inner4, inner6)

    def give_addresses(self, name, device, four, six):
        ip("-n", name, "address", "add", four, "dev", device)
        if six:
            ip("-n", name, "address", "add", six, "dev", device, "nodad")
        ip("-n", name, "link", "set", device, "up")

    def serve(self, make):
        with inside(self.server):
            return self.keep(make())

    def begin(self, *services, wait="/readyz", **options):
        running = NamespacedProxy(list(services), **options)
        running.namespace = self.middle
        self.started.append(running)
        self.addCleanup(self._end, running)
        return running.start(wait)

    def dial(self, target, timeout=10, source=None):
        with inside(self.client):
            return self.connect(target, timeout, source)

    def transfer(self, server, target, identity, up, down, **options):
        """exchange() with its client in the client's namespace."""
        with inside(self.client):
            return exchange(server, target, identity, up, down, **options)

    def iperf3_server(self, port):
        with inside(self.server):
            server = subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        time.sleep(0.3)

    def iperf3(self, port, *options, host=PROXY):
        done = checked(["ip", "netns", "exec", self.client, "iperf3", "-J", "-c", host, "-p", str(port), *options], check=False)
        result = json.loads(done.stdout)
        self.assertNotIn("error", result)
        return result

    def assert_marks(self, running, target, wires, first, then):
        """All that is seen of a connection has one mark, and after a reload, `then`'s name and number, the other."""
        name, second = then
        client = self.dial(target)
        self.assert_echo(client)
        running.reload([{**target, "qos": {"dscp": name}}])
        time.sleep(0.3)
        marked = [len(wire.classes) for wire in wires]
        self.assert_echo(client)
        client.close()
        time.sleep(0.3)
        for wire, before in zip(wires, marked):
            self.assertGreater(before, 2)
            self.assertEqual({first}, {traffic_class >> 2 for traffic_class, _ in wire.classes[:before]})
            self.assertEqual({second}, {traffic_class >> 2 for traffic_class, _ in wire.classes[before:]})
            self.assertTrue(all(sound for _, sound in wire.classes))
