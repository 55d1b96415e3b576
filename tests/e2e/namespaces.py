#!/usr/bin/env python3
"""Client, proxy and server each in a network namespace of its own, with real links between them: IPv6, links that
fail, addresses that answer nothing, datagrams larger than a link takes. Needs root; skipped by name elsewhere."""
import contextlib
import json
import os
import socket
import subprocess
import threading
import time

import proxy
from netns import PROXY, PROXY6, SERVER, SERVER6, World, inside, ip
from peers import Datagrams, Echo, Exchange, Named, exchange
from proxy import address_of, endpoint, eventually, service


class Namespaces(World):
    def test_transfers_over_ipv4_and_ipv6_and_from_one_to_the_other(self):
        four, six = self.serve(lambda: Exchange(host=SERVER)), self.serve(lambda: Exchange(host=SERVER6))
        identity = 0
        web = [service((server.host, server.port), name=f"web{n}", listen=listen) for n, (server, listen) in enumerate((
            (four, f"{PROXY}:8000"), (six, f"[{PROXY6}]:8001"), (six, f"{PROXY}:8002"), (four, f"[{PROXY6}]:8003")))]
        self.begin(*web)
        for one, server in zip(web, (four, six, six, four)):
            for up, down in ((1, 0), (0, 1), (3_000_001, 10), (10, 3_000_001), (20_000_000, 20_000_000)):
                identity += 10
                with self.subTest(listen=one["listen"], up=up, down=down):
                    self.assertIsNone(self.transfer(server, address_of(one), identity, up, down))

    def test_a_listener_for_each_family_side_by_side(self):
        four, six = self.serve(lambda: Named("four", host=SERVER)), self.serve(lambda: Named("six", host=SERVER))
        self.begin(service((SERVER, six.port), listen="[::]:8000"),
                   service((SERVER, four.port), name="four", listen="0.0.0.0:8000"))
        self.assertEqual(b"six\n", proxy.receive_exactly(self.dial((PROXY6, 8000)), 4))
        self.assertEqual(b"four\n", proxy.receive_exactly(self.dial((PROXY, 8000)), 5))

    def test_access_by_network(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY}:8000", access={"allow": ["10.93.1.0/24"], "deny": []})
        six = service((SERVER, echo.port), name="six", listen=f"[{PROXY6}]:8000", access={"deny": ["fd93:1::/64"]})
        running = self.begin(web, six)
        client = self.dial(web)
        self.assert_echo(client)
        self.assert_turned_away(six)
        web["access"] = {"allow": ["10.94.0.0/16"]}
        running.reload([web, six])
        self.assert_closed(client)

    def test_a_link_that_goes_and_returns_loses_no_byte(self):
        server = self.serve(lambda: Exchange(host=SERVER))
        web = service((SERVER, server.port), listen=f"{PROXY}:8000")
        running = self.begin(web)
        results = []
        mover = threading.Thread(target=lambda: results.append(
            self.transfer(server, address_of(web), 10, 20_000_000, 20_000_000, piece_pause=0.05)))
        mover.start()
        eventually(lambda: running.service()["active_connections"] == 1, "the transfer runs")
        time.sleep(0.3)
        ip("-n", self.middle, "link", "set", "server0", "down")
        time.sleep(0.7)
        ip("-n", self.middle, "link", "set", "server0", "up")
        ip("-n", self.middle, "address", "replace", "fd93:2::1/64", "dev", "server0", "nodad")
        mover.join()
        self.assertEqual([None], results)

    def test_no_route_is_quick_and_named_and_heals(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY}:8000")
        running = self.begin(web, settings={"stream": {"connect_timeout": "2s"}})
        ip("-n", self.middle, "link", "set", "server0", "down")
        began = time.monotonic()
        self.assert_turned_away(web)
        self.assertLess(time.monotonic() - began, 1.0)
        running.wait_ended_with("connect_unreachable")
        ip("-n", self.middle, "link", "set", "server0", "up")

        def serves():
            with contextlib.suppress(ConnectionError):
                with contextlib.closing(self.dial(web)) as client:
                    client.sendall(b"x")
                    return client.recv(1) == b"x"
            return False
        eventually(serves, "the service works again", 5, 0.1)

    @proxy.requires("nft")
    def test_an_endpoint_behind_a_dropping_firewall_is_left_for_the_next(self):
        hidden, good = self.serve(lambda: Named("hidden", host=SERVER)), self.serve(lambda: Named("good", host=SERVER))
        self.nft("add table inet test")
        self.nft("add chain inet test in { type filter hook input priority 0 ; }")
        self.nft(f"add rule inet test in tcp dport {hidden.port} drop")
        web = service((SERVER, hidden.port), (SERVER, good.port), listen=f"{PROXY}:8000", routing={"policy": "round_robin"})
        running = self.begin(web, settings={"stream": {"connect_timeout": "300ms", "workers": 1}})
        for _ in range(8):
            self.assertEqual(b"good\n", proxy.receive_exactly(self.dial(web), 5))
        self.assertEqual(0, running.ended_with("connect_timeout"))
        eventually(lambda: not running.service()["endpoints"][0]["up"], "three timeouts in a row and it is down")
        began = time.monotonic()
        self.assertEqual(b"good\n", proxy.receive_exactly(self.dial(web), 5))
        self.nft("delete table inet test")

        def back():
            with contextlib.closing(self.dial(web)) as client:
                return client.recv(16) == b"hidden\n"
        eventually(back, "it is used again", 20, 0.1)
        self.assertLess(time.monotonic() - began, 20)

    def nft(self, command):
        with inside(self.server):
            subprocess.run(["nft", command], check=True, capture_output=True, text=True)

    def test_a_client_that_vanished_is_ended_by_the_idle_timeout(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY}:8000", idle_timeout="700ms")
        running = self.begin(web)
        client = self.dial(web)
        self.assert_echo(client)
        ip("-n", self.client, "link", "set", "up0", "down")
        running.wait_ended_with("idle_timeout")
        eventually(lambda: not echo.connections, "the endpoint's side is closed")

    def test_datagrams_larger_than_the_link_takes(self):
        server = self.serve(lambda: Datagrams(host=SERVER))
        echo = service((SERVER, server.port), name="echo", protocol="udp", listen=f"{PROXY}:8000")
        self.begin(echo)
        with inside(self.client):
            client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(3)
        for size in (1472, 1473, 8000, 65507):
            data = os.urandom(size)
            client.sendto(data, (PROXY, 8000))
            self.assertEqual(data, client.recv(65535), f"{size} bytes")

    @proxy.requires("iperf3")
    def test_iperf3(self):
        with inside(self.server):
            server = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait, 10)
        self.addCleanup(server.terminate)
        self.begin(service((SERVER, 5201), listen=f"{PROXY}:5201"))

        def run(*options):
            with inside(self.client):
                shown = subprocess.run(["iperf3", "-c", PROXY, "-J", "-t", "1", *options], capture_output=True, text=True,
                                       timeout=30, check=False)
            return json.loads(shown.stdout)
        for options in ((), ("-R",), ("-P", "4")):
            report = eventually(lambda: (r := run(*options)) and "error" not in r and r, "iperf3 through the proxy", 20, 0.3)
            self.assertGreater(report["end"]["sum_received"]["bytes"], 20_000_000)


if __name__ == "__main__":
    proxy.main()
