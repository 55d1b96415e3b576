#!/usr/bin/env python3
"""Paths that leave by a gateway: one endpoint behind two links, in both planes."""
import contextlib
import socket

import proxy
from netns import PROXY, PROXY_TO_SERVER, SERVER, World, checked, inside, ip
from packet_plane import VIP, PacketPlane, netns
from peers import Datagrams, Server
from proxy import eventually, service

ENDPOINT = "10.77.0.2"          # behind both links
SECOND_GATEWAY, SECOND_SOURCE = "10.93.30.2", "10.93.30.1"
PORT, HEALTH = 8000, 8001
SOURCES = {"first": PROXY_TO_SERVER, "second": SECOND_SOURCE}  # where connections of a path come from


class Mirror(Server):
    """Says where a connection comes from."""

    def serve(self, connection, peer):
        connection.sendall(peer[0].encode() + b"\n")
        while data := connection.recv(65536):
            connection.sendall(data)


class TwoLinks:
    def add_second_link(self):
        self.link(self.server, "up1", f"{SECOND_GATEWAY}/24", None, "server1", f"{SECOND_SOURCE}/24", None)
        ip("-n", self.server, "address", "add", f"{ENDPOINT}/32", "dev", "lo")
        ip("-n", self.middle, "route", "add", f"{ENDPOINT}/32", "via", SERVER)
        for name in ("up1", "all"):
            checked(["ip", "netns", "exec", self.server, "sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"])

    def serve_mirrors(self):
        for port in (PORT, HEALTH):
            self.serve(lambda port=port: Mirror(host=ENDPOINT, port=port))
        self.serve(lambda: Datagrams(lambda data, peer: peer[0].encode(), host=ENDPOINT, port=PORT))

    def paths(self):
        return [{"name": "first", "gateway": SERVER}, {"name": "second", "gateway": SECOND_GATEWAY}]

    def multicloud(self, **probe):
        return {"enabled": True, "probe": {"port": HEALTH, **probe}, "slow_start": "0s"}

    def ask(self, target):
        with contextlib.closing(self.dial(target)) as client:
            return client.makefile().readline().strip()

    def path(self, running, name):
        return next(path for path in running.json("/api/v1/paths") if path["name"] == name)

    def rules(self):
        return checked(["ip", "-n", self.middle, "rule"]).stdout.count("0x4d50")


class Gateways(TwoLinks, World):
    def setUp(self):
        super().setUp()
        self.add_second_link()
        self.serve_mirrors()

    def both_ways(self, protocol="tcp", **more):
        return service({"address": f"{ENDPOINT}:{PORT}", "path": "first"}, {"address": f"{ENDPOINT}:{PORT}", "path": "second"},
                       listen=f"{PROXY}:{PORT}", protocol=protocol, routing={"policy": "round_robin"}, **more)

    def run_both(self, *services, probe=None, **options):
        running = self.begin(*services, settings={"multicloud": self.multicloud(**(probe or {})), "paths": self.paths()}, **options)
        eventually(lambda: all(path["up"] for path in running.json("/api/v1/paths")), lambda: f"both are up\n{running.json('/api/v1/paths')}")
        return running

    def test_connections_and_datagrams_leave_by_the_gateway_of_their_path(self):
        web, dns = self.both_ways(), self.both_ways("udp", name="dns")
        running = self.run_both(web, dns)
        self.assertEqual([], [note for note in running.status()["notes"] if "gateway" in note])
        self.assertEqual(set(SOURCES.values()), {self.ask(web) for _ in range(4)})
        for name, drained in (("second", "first"), ("first", "second")):
            running.post(f"/api/v1/paths/{drained}/drain")
            self.assertEqual({SOURCES[name]}, {self.ask(web) for _ in range(4)})
            with inside(self.client):
                talker = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            talker.settimeout(5)
            talker.sendto(b"?", (PROXY, PORT))
            self.assertEqual(SOURCES[name], talker.recv(64).decode())
            self.assertEqual(name, running.flows("?service=web")[0]["path"])
            running.post(f"/api/v1/paths/{drained}/undrain")
        self.assertEqual(2, self.rules())
        running.stop()
        self.assertEqual(0, self.rules(), "all is as it was")

    def check_probes_leave_by_the_gateway(self, **probe):
        web = self.both_ways()
        running = self.run_both(web, probe=probe)
        netns(self.server, "nft", "add table inet test; add chain inet test in { type filter hook input priority 0 ; }; "
              "add rule inet test in iifname up1 drop")
        eventually(lambda: not self.path(running, "second")["up"], "probes by the second link get no answers")
        self.assertTrue(self.path(running, "first")["up"])
        self.assertEqual({SOURCES["first"]}, {self.ask(web) for _ in range(4)})
        netns(self.server, "nft", "delete table inet test")
        eventually(lambda: self.path(running, "second")["up"], "it is back")

    @proxy.requires("nft")
    def test_probes_leave_by_it_too(self):
        self.check_probes_leave_by_the_gateway()

    @proxy.requires("nft")
    def test_and_pings(self):
        checked(["ip", "netns", "exec", self.middle, "sysctl", "-qw", "net.ipv4.ping_group_range=0 0"])
        with contextlib.suppress(KeyError):
            self.multicloud = lambda **probe: {"enabled": True, "probe": {"kind": "icmp"}, "slow_start": "0s"}
        self.check_probes_leave_by_the_gateway()

    def test_nothing_leaves_another_way_while_the_gateway_cannot_be_reached(self):
        web = self.both_ways()
        running = self.run_both(web)
        ip("-n", self.middle, "link", "set", "server1", "down")
        eventually(lambda: not self.path(running, "second")["up"], "it is down")
        eventually(lambda: f"gateway {SECOND_GATEWAY} cannot be reached" in str(running.status()["notes"]), "status says so")
        self.assertEqual({SOURCES["first"]}, {self.ask(web) for _ in range(4)})
        self.assertEqual({"first"}, {flow["path"] for flow in running.flows("?limit=4")})
        ip("-n", self.middle, "link", "set", "server1", "up")
        eventually(lambda: self.path(running, "second")["up"], "it is back")
        eventually(lambda: self.ask(web) == SOURCES["second"], "and used")

    def test_a_hot_upgrade_keeps_them(self):
        proxy.become_subreaper()
        web = self.both_ways()
        running = self.run_both(web)
        client = self.dial(web)
        old = running.replace()
        running.wait_for()
        client.close()
        eventually(lambda: old.poll() is not None, "the old one ends", 15)
        self.assertEqual(2, self.rules())
        self.assertEqual(set(SOURCES.values()), {self.ask(web) for _ in range(4)})

    @proxy.requires("setpriv")
    def test_without_the_right_to_it_the_path_is_down_and_the_rest_goes_on(self):
        web = self.both_ways()
        plain = service(f"{ENDPOINT}:{PORT}", name="plain", listen=f"{PROXY}:8003")
        running = self.begin(web, plain, settings={"multicloud": self.multicloud(), "paths": self.paths()}, wait="/healthz",
                             prefix=["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-all"])
        eventually(lambda: "give this process CAP_NET_ADMIN" in str(running.status()["notes"]), lambda: running.status()["notes"])
        self.assertEqual(PROXY_TO_SERVER, self.ask(plain))
        eventually(lambda: not any(path["up"] for path in running.json("/api/v1/paths")), "both paths are down")
        self.assert_turned_away(web)


class PacketGateways(TwoLinks, PacketPlane):
    def setUp(self):
        super().setUp()
        self.add_second_link()
        netns(self.server, "ethtool", "-K", "up1", "tx", "off", "gro", "on")

    def test_packets_leave_by_the_gateway_of_their_path(self):
        self.serve_mirrors()
        web = service({"address": f"{ENDPOINT}:{PORT}", "path": "second"}, listen=f"{VIP}:80", routing={"policy": "round_robin"})
        settings = {"multicloud": self.multicloud(), "paths": self.paths()}
        running = self.begin(web, settings=settings, interfaces=["client0", "server0", "server1"])
        self.assert_in_kernel(running)
        eventually(lambda: self.path(running, "second")["up"], "it is up")
        self.assertEqual({SOURCES["second"]}, {self.ask(web) for _ in range(4)})
        # A reload leads flows that begin from then on by another.
        running.reload(services=[{**web, "endpoints": [{"address": f"{ENDPOINT}:{PORT}", "path": "first"}]}])
        eventually(lambda: self.ask(web) == SOURCES["first"], "they leave by the first")
        running.reload(services=[web])
        eventually(lambda: self.ask(web) == SOURCES["second"], "and by the second again")
        ip("-n", self.middle, "link", "set", "server1", "down")
        eventually(lambda: not self.path(running, "second")["up"], "its link is down")
        with self.assertRaises(OSError, msg="nothing leaves another way"):
            self.dial(web, timeout=1.5)


if __name__ == "__main__":
    proxy.main()
