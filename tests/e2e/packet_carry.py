#!/usr/bin/env python3
"""What the packet plane carries, in each forwarding mode and by each way of attaching, and what it refuses."""
import collections
import contextlib
import json
import selectors
import socket
import subprocess
import threading
import time

import proxy
from netns import CLIENT, PROXY_TO_SERVER, SERVER, SERVER6, inside, ip
from packet_plane import NEAR_VIP, NEAR_VIP6, VIP, VIP6, PacketPlane, netns
from peers import Datagrams, Echo, Exchange
from proxy import address_of, eventually, service


class Ports:
    """Listens at many ports and answers each connection, and whatever it says, with the number of the port."""

    def __init__(self, host, first, count):
        self.selector = selectors.DefaultSelector()
        self.listeners = [socket.create_server((host, first + n), backlog=64) for n in range(count)]
        for listener in self.listeners:
            self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stopping:
            for key, _ in self.selector.select(0.1):
                key.data(key.fileobj)

    def _accept(self, listener):
        connection, _ = listener.accept()
        connection.sendall(b"%d" % listener.getsockname()[1])
        self.selector.register(connection, selectors.EVENT_READ, self._answer)

    def _answer(self, connection):
        with contextlib.suppress(OSError):
            if connection.recv(100):
                return connection.sendall(b"%d" % connection.getsockname()[1])
        self.selector.unregister(connection)
        connection.close()

    def close(self):
        self.stopping = True
        self.thread.join(5)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


class Carry(PacketPlane):
    def check_transfers(self, forwarding, **packet):
        four, six = self.serve(lambda: Exchange(host=SERVER)), self.serve(lambda: Exchange(host=SERVER6))
        web = service((SERVER, four.port), listen=f"{VIP}:80", forwarding=forwarding)
        web6 = service((SERVER6, six.port), name="web6", listen=f"[{VIP6}]:80", forwarding=forwarding)
        running = self.begin(web, web6, **packet)
        for one, server in ((web, four), (web6, six)):
            self.assert_in_kernel(running, one["name"])
            for identity, (up, down) in enumerate(((1, 0), (0, 1), (2_000_001, 10), (10, 2_000_001), (5_000_000, 5_000_000))):
                with self.subTest(listen=one["listen"], up=up, down=down):
                    self.assertIsNone(self.transfer(server, address_of(one), identity, up, down))
        return running, four

    def test_nat(self):
        running, four = self.check_transfers("nat")
        shown = running.service("web")
        self.assertGreater(shown["received_bytes"], 7_000_000)
        self.assertGreater(shown["sent_bytes"], 7_000_000)
        # Closed flows end in seconds, and leave their records.
        eventually(lambda: running.service("web")["active_connections"] == 0, "closed flows end", 15)
        self.assertEqual({"finished": 5}, running.service("web")["results"])
        record = next(one for one in running.flows("?service=web") if one["received_bytes"] > 5_000_000)
        self.assertEqual(("packet", "tcp", "finished", f"{SERVER}:{four.port}"),
                         (record["plane"], record["protocol"], record["end_reason"], record["endpoint"]))
        self.assertEqual(CLIENT, record["client"].rsplit(":", 1)[0])

    def test_dnat(self):
        self.check_transfers("dnat")

    def test_nat_generic(self):
        running, _ = self.check_transfers("nat", mode="generic")
        self.assertEqual({"XDP generic"}, {one["way"] for one in running.json("/status")["packet_plane"]["interfaces"]})

    def test_dnat_at_tc(self):
        running, _ = self.check_transfers("dnat", mode="tc")
        self.assertIn("TC", running.json("/status")["packet_plane"]["interfaces"][0]["way"])

    def test_nat_at_tc(self):
        self.check_transfers("nat", mode="tc")

    def test_auto_on_veth_needs_nothing_of_the_far_ends(self):
        for name in (self.client, self.server):
            netns(name, "ethtool", "-K", "up0", "tx", "on", "gro", "off")
        running, _ = self.check_transfers("nat", mode="auto")
        for one in running.json("/status")["packet_plane"]["interfaces"]:
            self.assertIn("TC ingress", one["way"])
            self.assertIn("veth", one["refused"][0])

    def test_datagrams_and_who_the_endpoint_sees(self):
        for forwarding, seen in (("nat", PROXY_TO_SERVER), ("dnat", CLIENT)):
            with self.subTest(forwarding=forwarding):
                echo = self.serve(lambda: Datagrams(host=SERVER))
                dns = service((SERVER, echo.port), name="dns", protocol="udp", listen=f"{VIP}:{5300 + len(forwarding)}",
                              forwarding=forwarding)
                running = self.begin(dns)
                with inside(self.client):
                    client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                client.settimeout(5)
                client.connect(address_of(dns))
                for size in (1, 100, 1400):
                    client.send(b"d" * size)
                    self.assertEqual(b"d" * size, client.recv(2000))
                self.assertEqual({seen}, {peer[0] for peer in echo.peers})
                shown = self.assert_in_kernel(running, "dns")
                self.assertEqual((1, 3, 3), (shown["active_connections"], shown["received_packets"], shown["sent_packets"]))
                [flow] = self.flow(running, "dns")
                self.assertEqual(f"{CLIENT}:{client.getsockname()[1]}", flow["client"])
                self.assertEqual(forwarding == "nat" or forwarding == "dnat", flow["plane"] == "packet")
                metrics = running.metrics()
                self.assertEqual(3, metrics.sum("marchproxy_packets_total", service="dns", direction="received"))
                self.assertEqual(1, metrics.sum("marchproxy_flows", service="dns"))
                running.stop()
                self.detach(running)

    # What an emulated processor carries of datagrams is its own affair: less is asked of it.
    RATE, RATE_BOTH = f"{100 / proxy.PATIENCE:.0f}M", f"{50 / proxy.PATIENCE:.0f}M"
    SHORT = (["-P", "8"], ["-R"], ["-u", "-b", RATE_BOTH, "--bidir"])

    def serve_iperf3(self):
        with inside(self.server):
            server = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        time.sleep(0.3)

    def check_iperf3(self, runs, **packet):
        """runs: by which options towards which service address; a second each."""
        services = [service((server, 5201), name=f"{protocol}{name}", protocol=protocol, listen=listen)
                    for server, name, listen in ((SERVER, "", f"{VIP}:5201"), (SERVER6, "6", f"[{VIP6}]:5201"))
                    for protocol in ("tcp", "udp")]
        running = self.begin(*services, **packet)
        self.serve_iperf3()
        for address, options in runs:
            with self.subTest(options, address=address):
                result = json.loads(netns(self.client, "iperf3", "-J", "-t", "1", "-c", address, *options, check=False).stdout)
                self.assertNotIn("error", result)
                end = result["end"]
                if "-u" in options:
                    lost = {name: total["lost_percent"] for name, total in end.items() if name.startswith("sum")}
                    self.assertTrue(all(percent < 5 for percent in lost.values()), lost)
                else:
                    self.assertGreater(end["sum_received"]["bits_per_second"], 50e6)
        for name in ("", "6"):
            self.assert_in_kernel(running, f"tcp{name}")
            self.assertGreater(running.service(f"tcp{name}")["received_bytes"], 5_000_000)
            self.assertGreater(running.service(f"udp{name}")["sent_bytes"], 1_000_000 / proxy.PATIENCE)

    @proxy.requires("iperf3")
    def test_iperf3_both_ways(self):
        four = [(VIP, options) for options in ([], ["-R"], ["-P", "8"], ["-u", "-b", self.RATE], ["-u", "-b", self.RATE, "-R"])]
        self.check_iperf3(four + [(VIP6, options) for options in self.SHORT])

    @proxy.requires("iperf3")
    def test_iperf3_both_ways_at_tc(self):
        for name in (self.client, self.server):  # checksums that are yet to be computed, and merged packets
            netns(name, "ethtool", "-K", "up0", "tx", "on")
        self.check_iperf3([(address, options) for address in (VIP, VIP6) for options in self.SHORT], mode="tc")

    @proxy.requires("iperf3")
    def test_merged_segments_beyond_what_a_length_field_tells(self):
        """BIG TCP: IPv6 packets of up to 185,000 bytes between interfaces that take them, without a length in their header."""
        for name, device in ((self.client, "up0"), (self.server, "up0"), (self.middle, "client0"), (self.middle, "server0")):
            netns(name, "ethtool", "-K", device, "tx", "on", "gro", "on")
            ip("-n", name, "link", "set", device, "gso_max_size", "185000", "gro_max_size", "185000")
        running = self.begin(service((SERVER6, 5201), name="web", listen=f"[{VIP6}]:5201"), mode="tc")
        self.serve_iperf3()
        for options in ([], ["-R"]):
            before = running.service("web")
            result = json.loads(netns(self.client, "iperf3", "-J", "-t", "1", "-c", VIP6, *options, check=False).stdout)
            self.assertGreater(result["end"]["sum_received"]["bits_per_second"], 50e6)
            after, way = running.service("web"), "sent" if options else "received"
            size = ((after[f"{way}_bytes"] - before[f"{way}_bytes"]) / (after[f"{way}_packets"] - before[f"{way}_packets"]))
            self.assertGreater(size, 66_000, options)

    def datagram(self, target, data):
        """Sends until it is answered, as clients of datagrams do: the first may find a next hop yet to be resolved."""
        with inside(self.client):
            client = self.keep(socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(1)
        client.connect(target)
        for _ in range(8):
            client.send(data)
            with contextlib.suppress(TimeoutError):
                return client.recv(65535)
        raise AssertionError(f"no answer to {len(data)} bytes")

    def test_datagrams_in_fragments(self):
        echo, echo6 = self.serve(lambda: Datagrams(host=SERVER)), self.serve(lambda: Datagrams(host=SERVER6))
        dns = service((SERVER, echo.port), name="dns", protocol="udp", listen=f"{VIP}:53")
        dns6 = service((SERVER6, echo6.port), name="dns6", protocol="udp", listen=f"[{VIP6}]:53", forwarding="dnat")
        running = self.begin(dns, dns6)
        for one in (dns, dns6):
            for size in (100, 2000, 9000):
                with self.subTest(one["name"], size=size):
                    data = bytes(n % 251 for n in range(size))
                    self.assertEqual(data, self.datagram(address_of(one), data), running.log(5))

    def check_narrow_link(self, **packet):
        ip("-n", self.middle, "route", "add", f"{SERVER}/32", "dev", "server0", "mtu", "lock", "1300")
        ip("-n", self.middle, "-6", "route", "add", f"{SERVER6}/128", "dev", "server0", "mtu", "lock", "1300")
        four, six = self.serve(lambda: Exchange(host=SERVER)), self.serve(lambda: Exchange(host=SERVER6))
        web = service((SERVER, four.port), listen=f"{VIP}:80")
        web6 = service((SERVER6, six.port), name="web6", listen=f"[{VIP6}]:80")
        running = self.begin(web, web6, **packet)
        for one, server in ((web, four), (web6, six)):
            # The endpoint does not know of it: the clients' segments become small by what they are told.
            self.assertIsNone(self.transfer(server, address_of(one), 1, 3_000_000, 3_000_000))
            self.assertGreater(running.service(one["name"])["dropped"].get("oversized", 0), 0)

    def test_a_narrow_link_behind_the_proxy(self):
        self.check_narrow_link()

    def test_a_narrow_link_behind_the_proxy_at_tc(self):
        netns(self.client, "ethtool", "-K", "up0", "tx", "on", "gro", "off")
        self.check_narrow_link(mode="tc")

    def test_the_largest_segment_that_both_sides_are_told(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        for port, mode in ((80, "native"), (81, "tc")):
            netns(self.client, "ethtool", "-K", "up0", "tx", "off" if mode == "native" else "on")
            web = service((SERVER, echo.port), listen=f"{VIP}:{port}", mss=1200)
            running = self.begin(web, mode=mode)
            client = self.dial(web)
            self.assert_echo(client)
            # Less what timestamps take.
            self.assertEqual(1188, client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), mode)
            running.stop()
            self.detach(running)

    @proxy.requires("traceroute")
    def test_traceroute_sees_the_service_address(self):
        echo = self.serve(lambda: Datagrams(host=SERVER))
        for port, mode in ((53, "native"), (54, "tc")):
            netns(self.client, "ethtool", "-K", "up0", "tx", "off" if mode == "native" else "on")
            running = self.begin(service((SERVER, echo.port), name="dns", protocol="udp", listen=f"{VIP}:{port}"), mode=mode)
            hops = netns(self.client, "traceroute", "-n", "-q1", "-w2", "-m1", "-U", f"-p{port}", VIP).stdout.splitlines()
            self.assertIn(VIP, hops[-1], mode)
            running.stop()
            self.detach(running)

    def test_a_service_at_the_address_that_endpoints_see(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY_TO_SERVER}:8080")
        running = self.begin(web)
        self.assert_in_kernel(running)
        for _ in range(3):
            self.assert_echo(self.dial(web))

    def test_ping_and_an_address_in_the_clients_own_network(self):
        echo, echo6 = self.serve(lambda: Echo(host=SERVER)), self.serve(lambda: Echo(host=SERVER6))
        near = service((SERVER, echo.port), name="near", listen=f"{NEAR_VIP}:80")
        near6 = service((SERVER6, echo6.port), name="near6", listen=f"[{NEAR_VIP6}]:80")
        running = self.begin(near, near6)
        for one in (near, near6):
            self.assert_in_kernel(running, one["name"])
            self.assert_echo(self.dial(one))
        for vip in (NEAR_VIP, NEAR_VIP6):
            self.assertIn("3 received", netns(self.client, "ping", "-c3", "-i0.2", "-W2", vip).stdout)

    def test_access_and_limits(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80", access={"deny": [f"{CLIENT}/32"]})
        limited = service((SERVER, echo.port), name="limited", listen=f"{VIP}:81", limits={"connections": 2})
        running = self.begin(web, limited)
        with self.assertRaises(OSError):
            self.dial(web, timeout=1.5)
        self.assertGreater(running.service("web")["dropped"]["access_denied"], 0)
        self.assertGreater(running.metrics().sum("marchproxy_dropped_total", service="web", plane="packet",
                                                 reason="access_denied"), 0)
        kept = [self.dial(limited), self.dial(limited)]
        with self.assertRaises(OSError):
            self.dial(limited, timeout=1.5)
        self.assertGreater(running.service("limited")["dropped"]["connection_limit"], 0)
        web["access"] = {"deny": []}
        self.assertEqual("success", running.reload([web, limited]))
        self.assert_echo(self.dial(web))
        for one in kept:
            self.assert_echo(one)

    def port_of(self, connection):
        return int(proxy.receive_exactly(connection, 5))

    def drawn(self, target):
        with self.dial(target) as connection:
            return self.port_of(connection)

    def test_a_thousand_endpoints(self):
        first, count = 20_000, 1000
        self.serve(lambda: Ports(SERVER, first, count))
        endpoints = [(SERVER, first + n) for n in range(count)]
        web = service(*endpoints, listen=f"{VIP}:80")
        running = self.begin(web)
        self.assertEqual(count, len(self.assert_in_kernel(running)["endpoints"]))
        hits = collections.Counter(self.drawn(web) for _ in range(4000))
        # Of 4000 draws from 1000 the fullest has 15 at most, but for one run in some ten thousand.
        self.assertGreater(len(hits), 930)
        self.assertLess(max(hits.values()), 16)
        # Half of them leave: their shares go to the others, and nobody else's flows move, nor when they return.
        held = [(connection, self.port_of(connection)) for connection in (self.dial(web) for _ in range(100))]

        def assert_they_stay():
            for connection, port in held:
                if port % 2 == 0:
                    connection.sendall(b"?")
                    self.assertEqual(port, self.port_of(connection))
        begin = time.monotonic()
        self.assertEqual("success", running.reload([service(*endpoints[::2], listen=f"{VIP}:80")]))
        self.assertLess(time.monotonic() - begin, 5)
        assert_they_stay()
        after = collections.Counter(self.drawn(web) for _ in range(1000))
        self.assertEqual({0}, {port % 2 for port in after})
        self.assertEqual("success", running.reload([web]))
        assert_they_stay()
        self.assertEqual({0, 1}, {self.drawn(web) % 2 for _ in range(100)})


if __name__ == "__main__":
    proxy.main()
