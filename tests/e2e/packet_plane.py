"""What the packet plane's tests share: the built program between namespaces joined by veth pairs. They need root and a
kernel that takes BPF programs."""
import os

import proxy
from netns import PROXY, PROXY6, PROXY_TO_SERVER, SERVER, NamespacedProxy, World, checked, inside, ip
from peers import Named

VIP, VIP6 = "10.93.9.1", "fd93:9::1"  # no machine's address: routed to the proxy
NEAR_VIP, NEAR_VIP6 = "10.93.1.100", "fd93:1::100"  # in the clients' network: the proxy answers ARP for it


def netns(name, *command, check=True):
    return checked(["ip", "netns", "exec", name, *command], check)


def attach(name, interface, direction, program, section):
    """A program of this directory's at TC of a namespace's interface."""
    netns(name, "tc", "filter", "add", "dev", interface, direction, "bpf", "da", "obj", built(program), "sec", section)


def built(program):
    return f"{os.environ['MARCHPROXY_E2E_PROGRAMS']}/{program}.bpf.o"


class PacketPlane(World):
    def setUp(self):
        super().setUp()
        for name in (self.client, self.server):
            self.far_end(name)
        ip("-n", self.client, "route", "add", "default", "via", PROXY)
        ip("-n", self.client, "-6", "route", "add", "default", "via", PROXY6)
        ip("-n", self.server, "route", "add", "default", "via", PROXY_TO_SERVER)
        ip("-n", self.server, "-6", "route", "add", "default", "via", "fd93:2::1")
        netns(self.middle, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv6.conf.all.accept_dad=0")
        self.pin = f"/sys/fs/bpf/mp-e2e-{os.getpid()}-{id(self)}"

    def far_end(self, name):
        # XDP sees packets before a card has completed their checksums, and veth hands its peer's XDP redirects on only
        # where it receives by NAPI.
        netns(name, "ethtool", "-K", "up0", "tx", "off", "gro", "on")

    def begin(self, *services, settings=None, **packet):
        keys = {"interfaces": ["client0", "server0"], "pin": self.pin, "max_flows": 200_000, "mode": "native", **packet}
        running = NamespacedProxy(list(services), settings={"packet": keys, **(settings or {})})
        running.namespace = self.middle
        self.started.append(running)
        self.addCleanup(self.detach, running)
        self.addCleanup(self._end, running)
        running.start()
        plane = running.json("/status")["packet_plane"]
        if not plane["running"] and "CAP_" in plane["reason"]:
            self.skipTest(plane["reason"])
        return running

    def detach(self, running):
        with inside(self.middle):
            return proxy.run("detach", "-c", running.config_file)

    def serve_named(self, *names):
        return [self.serve(lambda name=name: Named(name, host=SERVER)) for name in names]

    def assert_in_kernel(self, running, name="web"):
        shown = running.service(name)
        self.assertEqual("packet", shown["plane"], shown["plane_reason"])
        return shown

    def flow(self, running, name="web"):
        return [one for one in running.flows(f"?service={name}") if one["state"] != "closed"]
