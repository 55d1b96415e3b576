#!/usr/bin/env python3
"""Rates, guarantees, priorities and marks between real programs: iperf3 through the proxy, and what is seen on the wire."""
import contextlib
import json
import socket
import subprocess
import threading
import time
import unittest

import proxy
from netns import PROXY, PROXY6, PROXY_TO_SERVER, SERVER, SERVER6, World, checked, inside
from peers import Echo
from proxy import eventually, service

ETHERTYPES = {0x0800: socket.AF_INET, 0x86dd: socket.AF_INET6}


class Wire:
    """Every IP packet that one address sends, as an interface of a namespace gets it: traffic class and TCP flags."""

    def __init__(self, namespace, device, source):
        with inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((device, 0))
        self.socket.settimeout(0.1)
        self.source, self.classes, self.over = source, [], False
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while not self.over:
            with contextlib.suppress(TimeoutError):
                frame, about = self.socket.recvfrom(65535)
                if about[2] != socket.PACKET_OUTGOING:
                    self.look(frame)

    def look(self, frame):
        family = ETHERTYPES.get(int.from_bytes(frame[12:14], "big"))
        if family == socket.AF_INET and socket.inet_ntop(family, frame[26:30]) == self.source:
            header = frame[14:34]
            total = sum(int.from_bytes(header[i:i + 2], "big") for i in range(0, 20, 2))
            self.classes.append((frame[15], (total & 0xffff) + (total >> 16) & 0xffff == 0xffff))
        if family == socket.AF_INET6 and frame[20] in (6, 17) and socket.inet_ntop(family, frame[22:38]) == self.source:
            self.classes.append(((frame[14] & 0xf) << 4 | frame[15] >> 4, True))

    def close(self):
        self.over = True
        self.thread.join()
        self.socket.close()


class Qos(World):
    def iperf3_server(self, port):
        with inside(self.server):
            server = subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        time.sleep(0.3)

    def iperf3(self, port, *options):
        done = checked(["ip", "netns", "exec", self.client, "iperf3", "-J", "-c", PROXY, "-p", str(port), *options], check=False)
        result = json.loads(done.stdout)
        self.assertNotIn("error", result)
        return result

    def limited(self, rate, *protocols, **more):
        return [service((SERVER, 5201), name=f"limited-{protocol}", protocol=protocol, listen=f"{PROXY}:5201",
                        **({"qos": {"rate": rate, **more}} if protocol in protocols else {})) for protocol in ("tcp", "udp")]

    @proxy.requires("iperf3")
    def test_tcp_at_its_rate_both_ways(self):
        running = self.begin(*self.limited("5Mbps", "tcp"), settings={"qos": {"enabled": True}})
        self.iperf3_server(5201)
        for bits, rate in ((5e6, "5Mbps"), (60e6, "60Mbps"), (400e6, "400Mbps")):
            running.reload(self.limited(rate, "tcp"))
            for options in ((), ("-R",), ("-P", "8")):
                with self.subTest(rate, options=options):
                    result = self.iperf3(5201, "-t", "3", "-O", "1", *options)
                    got = result["end"]["sum_received"]["bits_per_second"]
                    self.assertLess(got, bits * 1.03)
                    self.assertGreater(got, bits * 0.90)  # a machine that does other things besides
        with inside(self.middle):
            rows = json.loads(running.command("qos", "--json").stdout)
        self.assertEqual([400_000_000] * 2, [row["rate"] for row in rows if row["service"] == "limited-tcp"])
        self.assertGreater(running.metrics().sum("qos_bytes_processed_total", service="limited-tcp", priority="P3"), 100e6)

    @proxy.requires("iperf3")
    def test_datagrams_at_their_rate(self):
        running = self.begin(*self.limited("20Mbps", "udp"), settings={"qos": {"enabled": True}})
        self.iperf3_server(5201)
        for options in ((), ("-R",)):
            with self.subTest(options):
                result = self.iperf3(5201, "-u", "-b", "40M", "-l", "1200", "-t", "3", *options)
                total = result["end"]["sum"]
                kept = total["bits_per_second"] * (1 - total["lost_percent"] / 100)
                self.assertAlmostEqual(20e6, kept, delta=1.5e6)
        eventually(lambda: running.metrics().sum("qos_queue_depth", service="limited-udp") == 0, "the queues are empty")
        metrics = running.metrics()
        late = metrics.sum("qos_packets_dropped_total", service="limited-udp", reason="queue_delay")
        self.assertGreater(late, 1000)
        self.assertEqual(metrics.sum("dropped_total", service="limited-udp", reason="queue_delay"), late)

    @proxy.requires("iperf3")
    def test_a_guarantee_holds_under_overload(self):
        qos = {"gold": {"priority": "P3", "guarantee": "30Mbps"}, "zero": {"priority": "P0"}, "one": {"priority": "P1"},
               "two": {"priority": "P2"}}
        services = [service((SERVER, 5201 + i), name=name, listen=f"{PROXY}:{5201 + i}", qos=qos[name])
                    for i, name in enumerate(qos)]
        self.begin(*services, settings={"qos": {"enabled": True, "link_rate": "100Mbps", "floors": {"P1": "5%", "P2": "5%"}}})
        got = {}
        for i in range(len(qos)):
            self.iperf3_server(5201 + i)
        threads = [threading.Thread(target=lambda i=i, name=name: got.update({name: self.iperf3(5201 + i, "-t", "4", "-O", "1")}))
                   for i, name in enumerate(qos)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates = {name: result["end"]["sum_received"]["bits_per_second"] / 1e6 for name, result in got.items()}
        for name, wanted in (("gold", 30), ("zero", 60), ("one", 5), ("two", 5)):
            self.assertGreater(rates[name], wanted * 0.9, rates)
        self.assertLess(sum(rates.values()), 103, rates)

    def test_every_packet_carries_the_mark(self):
        """The first ones of a connection too, towards clients and endpoints, IPv4 and IPv6."""
        for family, listen, endpoint, towards_server in (("IPv4", PROXY, SERVER, PROXY_TO_SERVER),
                                                         ("IPv6", f"[{PROXY6}]", SERVER6, "fd93:2::1")):
            with self.subTest(family):
                echo = self.serve(lambda host=endpoint: Echo(host=host))
                web = service((endpoint, echo.port), name=f"web-{family}",
                              listen=f"{listen}:8000", qos={"priority": "P1"})
                running = self.begin(web, settings={"qos": {"enabled": True}})
                wires = [self.keep(Wire(self.client, "up0", listen.strip("[]"))),
                         self.keep(Wire(self.server, "up0", towards_server))]
                client = self.dial(web)
                self.assert_echo(client)
                running.reload([{**web, "qos": {"dscp": "EF"}}])
                time.sleep(0.3)
                marked = [len(wire.classes) for wire in wires]
                self.assert_echo(client)
                client.close()
                time.sleep(0.3)
                for wire, before in zip(wires, marked):
                    self.assertGreater(before, 2)
                    self.assertEqual({34}, {traffic_class >> 2 for traffic_class, _ in wire.classes[:before]})
                    self.assertEqual({46}, {traffic_class >> 2 for traffic_class, _ in wire.classes[before:]})
                    self.assertTrue(all(sound for _, sound in wire.classes))
                running.stop()

    def test_a_link_that_is_too_slow_for_the_guarantees_is_refused(self):
        web = service((SERVER, 80), listen=f"{PROXY}:8000", qos={"guarantee": "50Mbps"})
        running = self.begin(web, settings={"qos": {"enabled": True, "link_rate": "100Mbps"}})
        self.assertEqual("failure", running.reload([web], settings={"qos": {"enabled": True, "link_rate": "40Mbps"}}))
        self.assertIn("50Mbps with qos.floors; qos.link_rate is 40Mbps", running.log())
        self.assertEqual(100_000_000, running.json("/api/v1/config")["qos"]["link_rate"])


if __name__ == "__main__":
    proxy.main()
