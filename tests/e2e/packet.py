#!/usr/bin/env python3
"""The packet plane of the built program, between namespaces joined by veth pairs: both forwarding modes, every way of
attaching, its life beyond the process, reloads and draining under load. Needs root and a kernel that takes BPF programs."""
import collections
import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
import unittest

import proxy
from netns import CLIENT, CLIENT6, PROXY, PROXY6, PROXY_TO_SERVER, SERVER, SERVER6, NamespacedProxy, World, inside, ip
from peers import Datagrams, Echo, Exchange, Named
from proxy import address_of, eventually, service

VIP, VIP6 = "10.93.9.1", "fd93:9::1"  # no machine's address: routed to the proxy
NEAR_VIP, NEAR_VIP6 = "10.93.1.100", "fd93:1::100"  # in the clients' network: the proxy answers ARP for it


def netns(name, *command, check=True):
    return subprocess.run(["ip", "netns", "exec", name, *command], check=check, capture_output=True, text=True)


class Ports:
    """Listens at many ports and answers each connection with the number of the one it came to."""

    def __init__(self, host, first, count):
        self.selector = selectors.DefaultSelector()
        self.listeners = [socket.create_server((host, first + n), backlog=64) for n in range(count)]
        for listener in self.listeners:
            self.selector.register(listener, selectors.EVENT_READ)
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stopping:
            for key, _ in self.selector.select(0.1):
                connection, _ = key.fileobj.accept()
                connection.sendall(b"%d" % key.fileobj.getsockname()[1])
                connection.close()

    def close(self):
        self.stopping = True
        self.thread.join(5)
        for listener in self.listeners:
            listener.close()


class PacketPlane(World):
    def setUp(self):
        super().setUp()
        for name in (self.client, self.server):
            # XDP sees packets before a card has completed their checksums, and veth hands its peer's XDP redirects on
            # only where it receives by NAPI.
            netns(name, "ethtool", "-K", "up0", "tx", "off", "gro", "on")
        ip("-n", self.client, "route", "add", "default", "via", PROXY)
        ip("-n", self.client, "-6", "route", "add", "default", "via", PROXY6)
        ip("-n", self.server, "route", "add", "default", "via", PROXY_TO_SERVER)
        ip("-n", self.server, "-6", "route", "add", "default", "via", "fd93:2::1")
        netns(self.middle, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv6.conf.all.accept_dad=0")
        self.pin = f"/sys/fs/bpf/mp-e2e-{os.getpid()}-{id(self)}"

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

    def name_of(self, target):
        return proxy.receive_all(self.dial(target)).decode().strip()

    def flow(self, running, name="web"):
        return [one for one in running.flows(f"?service={name}") if one["state"] != "closed"]

    # --- what it carries -------------------------------------------------------------------------------------------

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
        return running

    def test_nat(self):
        self.check_transfers("nat")

    def test_dnat(self):
        self.check_transfers("dnat")

    def test_nat_generic(self):
        running = self.check_transfers("nat", mode="generic")
        self.assertEqual({"XDP generic"}, {one["way"] for one in running.json("/status")["packet_plane"]["interfaces"]})

    def test_dnat_at_tc(self):
        running = self.check_transfers("dnat", mode="tc")
        self.assertIn("TC", running.json("/status")["packet_plane"]["interfaces"][0]["way"])

    def test_nat_at_tc(self):
        self.check_transfers("nat", mode="tc")

    def test_auto_on_veth_needs_nothing_of_the_far_ends(self):
        for name in (self.client, self.server):
            netns(name, "ethtool", "-K", "up0", "tx", "on", "gro", "off")
        running = self.check_transfers("nat", mode="auto")
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

    def test_a_thousand_endpoints(self):
        first, count = 20_000, 1000
        self.serve(lambda: Ports(SERVER, first, count))
        endpoints = [(SERVER, first + n) for n in range(count)]
        web = service(*endpoints, listen=f"{VIP}:80")
        running = self.begin(web)
        self.assertEqual(count, len(self.assert_in_kernel(running)["endpoints"]))
        hits = collections.Counter(self.name_of(web) for _ in range(4000))
        # Of 4000 draws from 1000 the fullest has 15 at most, but for one run in some ten thousand.
        self.assertGreater(len(hits), 930)
        self.assertLess(max(hits.values()), 16)
        # Half of them leave: their shares go to the others, and nobody else's flows move.
        begin = time.monotonic()
        self.assertEqual("success", running.reload([service(*endpoints[::2], listen=f"{VIP}:80")]))
        self.assertLess(time.monotonic() - begin, 5)
        after = collections.Counter(self.name_of(web) for _ in range(1000))
        self.assertEqual({0}, {int(port) % 2 for port in after})

    # --- its life --------------------------------------------------------------------------------------------------

    def test_killed_in_the_middle_of_sixteen_transfers(self):
        server = self.serve(lambda: Exchange(host=SERVER))
        web = service((SERVER, server.port), listen=f"{VIP}:80")
        running = self.begin(web)
        outcomes = {}

        def work(identity):
            outcomes[identity] = self.transfer(server, address_of(web), identity, 8_000_000, 8_000_000, piece_pause=0.02)

        workers = [threading.Thread(target=work, args=(identity,)) for identity in range(16)]
        for worker in workers:
            worker.start()
        eventually(lambda: running.service("web")["active_connections"] >= 16, "all transfers have begun")
        running.signal(signal.SIGKILL)
        running.wait()
        self.assertIsNone(self.transfer(server, address_of(web), 100, 1000, 1000), "new flows while no process runs")
        running.ended = None
        running.start()
        plane = running.json("/status")["packet_plane"]
        self.assertTrue(plane["took_over"])
        self.assertTrue(all(one["adopted"] for one in plane["interfaces"]))
        for worker in workers:
            worker.join(120)
        self.assertEqual({identity: None for identity in range(16)}, outcomes)
        eventually(lambda: running.service("web")["active_connections"] == 0, "the flows of the earlier process end", 20)

    def test_an_endpoint_drains_and_its_flow_goes_on(self):
        one, two = self.serve(lambda: Echo(host=SERVER)), self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, one.port), (SERVER, two.port), listen=f"{VIP}:80")
        running = self.begin(web)
        kept = [self.dial(web) for _ in range(20)]
        for client in kept:
            self.assert_echo(client)
        before = {endpoint["address"]: endpoint["active_connections"] for endpoint in running.service("web")["endpoints"]}
        self.assertTrue(all(before.values()), before)
        first = f"{SERVER}:{one.port}"
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{first}/drain").status)
        more = [self.dial(web) for _ in range(20)]
        for client in kept + more:
            self.assert_echo(client)
        after = {endpoint["address"]: endpoint for endpoint in running.service("web")["endpoints"]}
        self.assertEqual(before[first], after[first]["active_connections"])
        self.assertTrue(after[first]["draining"])
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{first}/undrain").status)
        fresh = [self.dial(web) for _ in range(20)]
        for client in fresh:
            self.assert_echo(client)
        eventually(lambda: running.service("web")["endpoints"][0]["active_connections"] > before[first], "it takes flows again")

    def test_reloads_under_load_lose_nothing(self):
        server, other = self.serve(lambda: Exchange(host=SERVER)), self.serve(lambda: Exchange(host=SERVER))
        web = service((SERVER, server.port), listen=f"{VIP}:80")
        second = service((SERVER, other.port), name="second", listen=f"{VIP}:81")
        running = self.begin(web)
        outcomes = {}

        def work(identity):
            outcomes[identity] = self.transfer(server, address_of(web), identity, 5_000_000, 5_000_000, piece_pause=0.02)

        workers = [threading.Thread(target=work, args=(identity,)) for identity in range(8)]
        for worker in workers:
            worker.start()
        for turn in range(6):
            self.assertEqual("success", running.reload([web, second] if turn % 2 == 0 else [web]))
        running.reload([web, second])
        self.assertIsNone(self.transfer(other, address_of(second), 50, 1000, 1000))
        for worker in workers:
            worker.join(120)
        self.assertEqual({identity: None for identity in range(8)}, outcomes)

    def test_a_removed_service_ends_and_returns(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        other = service((SERVER, echo.port), name="other", listen=f"{VIP}:81")
        running = self.begin(web, other)
        client = self.dial(web)
        self.assert_echo(client)
        running.reload([other])
        client.settimeout(1)
        client.send(b"lost")
        with self.assertRaises(OSError):
            client.recv(10)
        eventually(lambda: running.service("web")["active_connections"] == 0
                   if any(one["name"] == "web" for one in running.json("/api/v1/services")) else True, "its flows end", 15)
        running.reload([web, other])
        self.assert_echo(self.dial(web))

    def test_replaced_by_a_new_binary(self):
        proxy.become_subreaper()
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web)
        kept = self.dial(web)
        self.assert_echo(kept)
        running.signal(signal.SIGUSR2)
        taken = re.compile(r'"process":(\d+),"took_over":true')
        eventually(lambda: taken.search(running.log(None)), lambda: "another process serves\n" + running.log(), 20)
        running.adopt_successor(int(taken.search(running.log(None)).group(1)))
        self.assertTrue(running.json("/status")["packet_plane"]["took_over"])
        self.assert_echo(kept)
        self.assert_echo(self.dial(web))
        eventually(lambda: running.service("web")["active_connections"] >= 2, "both flows are its own")

    def test_detach_leaves_nothing(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        running = self.begin(service((SERVER, echo.port), listen=f"{VIP}:80"))
        with inside(self.middle):
            refused = proxy.run("detach", "-c", running.config_file)
        self.assertEqual(1, refused.returncode)
        self.assertIn("running process", refused.stderr)
        running.stop()
        self.assertIn("xdp", netns(self.middle, "ip", "link", "show", "client0").stdout)
        self.assertIn("detached from 2 interfaces", self.detach(running).stdout)
        self.assertNotIn("xdp", netns(self.middle, "ip", "link", "show", "client0").stdout)
        self.assertFalse(os.path.exists(self.pin))
        self.assertIn("nothing was attached", self.detach(running).stdout)

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def test_an_interface_goes_and_returns(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web)
        self.assert_echo(self.dial(web))
        ip("-n", self.client, "link", "del", "up0")
        eventually(lambda: any("client0" in note for note in running.json("/status")["notes"]), "status names it")
        self.link(self.client, "up0", f"{CLIENT}/24", f"{CLIENT6}/64", "client0", f"{PROXY}/24", f"{PROXY6}/64")
        netns(self.client, "ethtool", "-K", "up0", "tx", "off", "gro", "on")
        ip("-n", self.client, "route", "add", "default", "via", PROXY)
        eventually(lambda: not any("client0" in note for note in running.json("/status")["notes"]), "it is attached again")
        self.assert_echo(self.dial(web))

    def test_a_route_changes(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80", forwarding="dnat")
        running = self.begin(web)
        kept = self.dial(web)
        self.assert_echo(kept)
        ip("-n", self.middle, "link", "add", "second0", "type", "veth", "peer", "name", "up1", "netns", self.server)
        for name, device in ((self.middle, "second0"), (self.server, "up1")):
            ip("-n", name, "link", "set", device, "up")
        netns(self.server, "ethtool", "-K", "up1", "tx", "off", "gro", "on")
        ip("-n", self.middle, "address", "add", "10.93.3.1/24", "dev", "second0")
        ip("-n", self.server, "address", "add", "10.93.3.2/24", "dev", "up1")
        netns(self.server, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.up1.rp_filter=0")
        ip("-n", self.middle, "route", "add", f"{SERVER}/32", "via", "10.93.3.2")
        before = int(netns(self.middle, "cat", "/sys/class/net/second0/statistics/tx_packets").stdout)
        time.sleep(0.3)
        for _ in range(5):
            self.assert_echo(kept)
        after = int(netns(self.middle, "cat", "/sys/class/net/second0/statistics/tx_packets").stdout)
        self.assertGreaterEqual(after - before, 5, running.log())

    def test_auto_falls_back_to_sockets_and_says_why(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY}:80")
        strange = service((SERVER, echo.port), name="strange", listen=f"{PROXY}:81", proxy_protocol="v1")
        running = self.begin(web, strange)
        self.assertEqual(("packet", "stream"), tuple(running.service(name)["plane"] for name in ("web", "strange")))
        self.assertIn("proxy_protocol", running.service("strange")["plane_reason"])
        self.assert_echo(self.dial(web))
        web["proxy_protocol"] = "v1"
        running.reload([web, strange])
        self.assertEqual("stream", running.service("web")["plane"])
        self.assertNotIn("xdp", netns(self.middle, "ip", "link", "show", "client0").stdout, "nothing is left in the way")
        with contextlib.suppress(KeyError):
            del web["proxy_protocol"]
        running.reload([web, strange])
        self.assertEqual("packet", running.service("web")["plane"])
        self.assert_echo(self.dial(web))

    def test_what_cannot_be_is_refused_with_its_reason(self):
        for keys, words in (({"listen": "0.0.0.0:80"}, "every address"),
                            ({"listen": f"{VIP}:80", "proxy_protocol": "v2"}, "needs sockets"),
                            ({"listen": f"{SERVER}:80", "endpoint": (SERVER, 80)}, "on this machine")):
            with self.subTest(words):
                target = keys.pop("endpoint", (SERVER, 80))
                running = NamespacedProxy([service(target, plane="packet", **keys)],
                                          settings={"packet": {"interfaces": ["client0"], "pin": self.pin, "max_flows": 1000}})
                running.namespace = self.middle
                running.start(wait=None)
                self.addCleanup(running.remove)
                self.assertEqual(1, running.wait())
                self.assertIn(words, running.log())


if __name__ == "__main__":
    proxy.main()
