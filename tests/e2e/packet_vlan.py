#!/usr/bin/env python3
"""VLANs: clients and endpoints in different ones of a trunk, and clients whose tags lead nowhere else."""
import contextlib
import os
import socket
import subprocess
import unittest

import proxy
from netns import PROXY, PROXY6, SERVER, SERVER6, inside, ip
from packet_plane import VIP, VIP6, PacketPlane, attach, netns
from peers import Datagrams, Exchange
from proxy import address_of, service

CLIENTS, ENDPOINTS = 100, 200


def kernel_has_vlans():
    name = f"mp{os.getpid()}vlan"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", "trunk", "type", "veth", "peer", "name", "far")
        return subprocess.run(["ip", "-n", name, "link", "add", "link", "trunk", "name", "vlan", "type", "vlan", "id", "5"],
                              capture_output=True, check=False).returncode == 0
    finally:
        ip("netns", "del", name)


class Vlans(PacketPlane):
    def check_transfers(self, forwarding="nat", **packet):
        four, six = self.serve(lambda: Exchange(host=SERVER)), self.serve(lambda: Exchange(host=SERVER6))
        web = service((SERVER, four.port), listen=f"{VIP}:80", forwarding=forwarding)
        web6 = service((SERVER6, six.port), name="web6", listen=f"[{VIP6}]:80", forwarding=forwarding)
        running = self.begin(web, web6, **packet)
        for one, server in ((web, four), (web6, six)):
            self.assert_in_kernel(running, one["name"])
            for identity, (up, down) in enumerate(((1, 0), (0, 1), (2_000_001, 10), (10, 2_000_001), (5_000_000, 5_000_000))):
                with self.subTest(listen=one["listen"], up=up, down=down):
                    self.assertIsNone(self.transfer(server, address_of(one), identity, up, down))
        self.check_ping()
        for one in (web, web6):
            self.assertEqual({}, {why: count for why, count in running.service(one["name"])["dropped"].items()
                                  if count and why != "no_neighbour"})
        return running

    def check_ping(self):
        for address in (VIP, VIP6):
            said = netns(self.client, "ping", "-c", "3", "-i", "0.2", "-W", "2", address, check=False)
            self.assertEqual(0, said.returncode, said.stdout + said.stderr)

    def check_datagrams(self, mode):
        echo = self.serve(lambda: Datagrams(host=SERVER))
        running = self.begin(service((SERVER, echo.port), name="dns", protocol="udp", listen=f"{VIP}:53"), mode=mode)
        self.assert_in_kernel(running, "dns")
        with self.datagrams_of_client() as client:
            client.connect((VIP, 53))
            for size in (1, 100, 1400, 4000):  # the last in parts
                for _ in range(5):
                    client.send(b"d" * size)
                    with contextlib.suppress(TimeoutError):
                        answer = client.recv(65535)
                        break
                self.assertEqual(b"d" * size, answer)

    @contextlib.contextmanager
    def datagrams_of_client(self):
        with inside(self.client):
            client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(1)
        yield client


class Trunk(Vlans):
    """VLAN devices of the kernel's: clients in VLAN 100, endpoints in VLAN 200, the proxy with one interface."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not kernel_has_vlans():
            raise unittest.SkipTest("this kernel has no VLAN devices (CONFIG_VLAN_8021Q)")

    def link(self, outer, outer_name, outer4, outer6, inner_name, inner4, inner6):
        number = CLIENTS if inner_name == "client0" else ENDPOINTS
        if number == CLIENTS:
            self.switch = f"mp{os.getpid()}t"
            ip("netns", "add", self.switch)
            self.addCleanup(ip, "netns", "del", self.switch)
            ip("-n", self.switch, "link", "add", "far", "type", "veth", "peer", "name", "trunk", "netns", self.middle)
            # XDP sees the tags that are in frames, and not those beside them; the rest as in PacketPlane.
            netns(self.switch, "ethtool", "-K", "far", "tx", "off", "gro", "on", "txvlan", "off")
            ip("-n", self.switch, "link", "set", "far", "up")
            ip("-n", self.middle, "link", "set", "trunk", "up")
        ip("-n", self.switch, "link", "add", "link", "far", "name", f"far.{number}", "type", "vlan", "id", str(number))
        ip("-n", self.switch, "link", "set", f"far.{number}", "netns", outer, "name", outer_name)
        ip("-n", self.middle, "link", "add", "link", "trunk", "name", inner_name, "type", "vlan", "id", str(number))
        self.give_addresses(outer, outer_name, outer4, outer6)
        self.give_addresses(self.middle, inner_name, inner4, inner6)

    def far_end(self, name):
        pass  # it has no card of its own

    def begin(self, *services, **packet):
        return super().begin(*services, interfaces=["trunk"], **packet)

    def test_xdp(self):
        self.check_transfers(mode="native")

    def test_generic(self):
        self.check_transfers(mode="generic")

    def test_tc(self):
        self.check_transfers(mode="tc")

    def test_dnat(self):
        self.check_transfers(forwarding="dnat", mode="native")

    def test_datagrams(self):
        self.check_datagrams("native")

    def test_a_device_that_comes_while_it_runs(self):
        ip("-n", self.middle, "link", "del", "client0")
        server = self.serve(lambda: Exchange(host=SERVER))
        web = service((SERVER, server.port), listen=f"{VIP}:80")
        running = self.begin(web)
        self.assert_in_kernel(running)
        ip("-n", self.middle, "link", "add", "link", "trunk", "name", "client0", "type", "vlan", "id", str(CLIENTS))
        self.give_addresses(self.middle, "client0", f"{PROXY}/24", f"{PROXY6}/64")
        self.assertIsNone(self.transfer(server, address_of(web), 1, 100_000, 100_000))
        self.assertEqual("success", running.reload([dict(web, limits={"connections": 100})]))
        self.assertIsNone(self.transfer(server, address_of(web), 2, 100_000, 100_000))

    def test_a_vlan_within_another_is_named(self):
        ip("-n", self.middle, "link", "add", "link", "client0", "name", "inner", "type", "vlan", "id", "7")
        server = self.serve(lambda: Exchange(host=SERVER))
        running = self.begin(service((SERVER, server.port), listen=f"{VIP}:80"))
        notes = running.json("/status")["notes"]
        self.assertTrue([note for note in notes if "inner" in note and "client0" in note], notes)


class TaggedClients(Vlans):
    """Clients' packets come with a tag that the proxy's kernel has no device for: they go on without it. The tag is put
    in and taken off by programs at the client's end."""

    def setUp(self):
        super().setUp()
        netns(self.client, "ethtool", "-K", "up0", "txvlan", "off")
        netns(self.client, "tc", "qdisc", "add", "dev", "up0", "clsact")
        attach(self.client, "up0", "egress", "tag", "tag")
        attach(self.client, "up0", "ingress", "tag", "untag")

    def test_xdp(self):
        self.check_transfers(mode="native")

    def test_tc(self):
        netns(self.client, "ethtool", "-K", "up0", "tx", "on", "txvlan", "on")
        netns(self.server, "ethtool", "-K", "up0", "tx", "on")
        self.check_transfers(mode="tc")

    def test_tc_dnat_with_the_tag_in_the_frame(self):
        netns(self.client, "ethtool", "-K", "up0", "tx", "on")
        self.check_transfers(forwarding="dnat", mode="tc")

    def test_datagrams(self):
        for mode in ("native", "tc"):
            with self.subTest(mode):
                self.check_datagrams(mode)
                self.started[-1].stop()
                self.detach(self.started[-1])


if __name__ == "__main__":
    proxy.main()
