#!/usr/bin/env python3
"""Direct server return: packets reach the endpoint inside others, its answers go to the client past the proxy."""
import contextlib
import signal
import socket
import subprocess

import proxy
from netns import CLIENT, CLIENT6, SERVER, SERVER6, inside, ip
from packet_plane import VIP, VIP6, PacketPlane, attach, netns
from peers import Datagrams, Echo, Exchange
from proxy import address_of, eventually, service

PAST, PAST6 = "10.93.3.1", "fd93:3::1"  # the client, by a link that leads past the proxy


class DsrWorld(PacketPlane):
    def setUp(self):
        super().setUp()
        ip("-n", self.client, "link", "add", "past0", "type", "veth", "peer", "name", "past0", "netns", self.server)
        for name, four, six in ((self.client, PAST, PAST6), (self.server, "10.93.3.2", "fd93:3::2")):
            ip("-n", name, "address", "add", f"{four}/24", "dev", "past0")
            ip("-n", name, "address", "add", f"{six}/64", "dev", "past0", "nodad")
            ip("-n", name, "link", "set", "past0", "up")
            netns(name, "sysctl", "-qw", *(f"net.ipv4.conf.{one}.rp_filter=0" for one in ("all", "up0", "past0")))
        ip("-n", self.server, "route", "add", f"{CLIENT}/32", "via", PAST)
        ip("-n", self.server, "-6", "route", "add", f"{CLIENT6}/128", "via", PAST6)
        ip("-n", self.server, "address", "add", f"{VIP}/32", "dev", "lo")
        ip("-n", self.server, "-6", "address", "add", f"{VIP6}/128", "dev", "lo", "nodad")
        self.receive_tunnels()

    def receive_tunnels(self):
        netns(self.server, "tc", "qdisc", "add", "dev", "up0", "clsact")
        attach(self.server, "up0", "ingress", "decapsulate", "tc")

    def dsr(self, port, host=VIP, name="web", encapsulation="ipip", **keys):
        endpoint = SERVER6 if ":" in host else SERVER
        listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return service((endpoint, port), name=name, listen=listen, forwarding="dsr", encapsulation=encapsulation, **keys)

    def check_transfers(self, encapsulation, **packet):
        four, six = self.serve(lambda: Exchange(host=VIP)), self.serve(lambda: Exchange(host=VIP6))
        web = self.dsr(four.port, encapsulation=encapsulation)
        web6 = self.dsr(six.port, host=VIP6, name="web6", encapsulation=encapsulation)
        running = self.begin(web, web6, **packet)
        for one, server in ((web, four), (web6, six)):
            self.assert_in_kernel(running, one["name"])
            for identity, (up, down) in enumerate(((1, 0), (0, 1), (2_000_001, 10), (10, 2_000_001), (5_000_000, 5_000_000))):
                with self.subTest(listen=one["listen"], up=up, down=down):
                    self.assertIsNone(self.transfer(server, address_of(one), identity, up, down))
            shown = running.service(one["name"])
            self.assertGreater(shown["received_bytes"], 7_000_000)
            self.assertEqual(0, shown["sent_bytes"])
        return running


class Dsr(DsrWorld):
    def test_ipip(self):
        running = self.check_transfers("ipip")
        # The clients' packets do not fit into the tunnel; they are told, and send smaller ones.
        self.assertGreater(running.service("web")["dropped"]["oversized"], 0)

    def test_gue(self):
        self.check_transfers("gue")

    def at_tc(self, encapsulation):
        netns(self.client, "ethtool", "-K", "up0", "tx", "on")
        self.check_transfers(encapsulation, mode="tc")

    def test_ipip_at_tc(self):
        self.at_tc("ipip")

    def test_gue_at_tc(self):
        self.at_tc("gue")

    def test_the_endpoint_sees_the_client_and_answers_past_the_proxy(self):
        echo = self.serve(lambda: Datagrams(host=VIP))
        running = self.begin(self.dsr(echo.port, name="dns", protocol="udp", encapsulation="gue", idle_timeout="3s"))
        with inside(self.client):
            client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(5)
        client.bind((CLIENT, 0))
        client.connect((VIP, echo.port))
        for size in (1, 100, 1400, 4000):
            for _ in range(3):
                with contextlib.suppress(OSError):  # its parts do not fit into the tunnel; the client's kernel is told
                    client.send(b"d" * size)
                    answer = client.recv(65535)
                    break
            self.assertEqual(b"d" * size, answer)
        self.assertEqual({CLIENT}, {peer[0] for peer in echo.peers})
        [flow] = self.flow(running, "dns")
        self.assertEqual((f"{CLIENT}:{client.getsockname()[1]}", f"{SERVER}:{echo.port}", 0),
                         (flow["client"], flow["endpoint"], flow["sent_bytes"]))
        eventually(lambda: running.service("dns")["active_connections"] == 0, "the flow ends once the client is silent", 15)

    def test_flows_outlive_the_process_and_the_endpoints_weight(self):
        echo = self.serve(lambda: Echo(host=VIP))
        web = self.dsr(echo.port)
        running = self.begin(web)
        kept = self.dial(web)
        self.assert_echo(kept)
        running.signal(signal.SIGKILL)
        running.wait()
        self.assert_echo(kept)
        running.ended = None
        running.start()
        self.assertEqual("success", running.reload([dict(web, endpoints=[dict(web["endpoints"][0], weight=0)])]))
        self.assert_echo(kept)
        with self.assertRaises(OSError):
            self.dial(web, timeout=1.5)
        self.assertGreater(running.service("web")["dropped"]["no_endpoint"], 0)

    def test_a_wrong_configuration_is_told(self):
        web = dict(self.dsr(80), encapsulation="none")
        web["endpoints"][0]["address"] = f"{SERVER}:81"
        running = proxy.Proxy([web])
        said = subprocess.run([proxy.BINARY, "check", "-c", running.config_file], capture_output=True, text=True, check=False)
        self.assertEqual(2, said.returncode)
        self.assertIn("dsr needs encapsulation: ipip or gue", said.stderr + said.stdout)
        self.assertIn(f"write {SERVER}:80", said.stderr + said.stdout)


class KernelEndpoint(DsrWorld):
    """An endpoint as docs/packet-plane.md has it, word for word, without a program of ours."""
    INSTRUCTIONS = """
        modprobe ipip && ip link set tunl0 up
        modprobe ip6_tunnel && ip link set ip6tnl0 up
        sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tunl0.rp_filter=0
        modprobe fou && ip fou add port 6080 gue
        modprobe fou6 && ip -6 fou add port 6080 gue
    """

    def receive_tunnels(self):
        # As they are after a boot: systemd's default is 2, which looks for a way back on any link.
        netns(self.server, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=2", "net.ipv4.conf.up0.rp_filter=2")
        for line in self.INSTRUCTIONS.strip().splitlines():
            done = netns(self.server, "sh", "-c", line, check=False)
            if "modprobe" in line and done.returncode:
                self.skipTest(f"{line.strip()}: {done.stderr.strip()}")
            self.assertEqual(0, done.returncode, done.stderr)

    def test_ipip(self):
        self.check_transfers("ipip")

    def test_gue(self):
        self.check_transfers("gue")


if __name__ == "__main__":
    proxy.main()
