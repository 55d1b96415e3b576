#!/usr/bin/env python3
"""Rates, guarantees, priorities and marks between real programs: iperf3 through the proxy, and what is seen on the wire."""
import json
import subprocess
import threading
import time
import unittest

import proxy
from netns import PROXY, PROXY6, PROXY_TO_SERVER, SERVER, SERVER6, World, checked, inside
from peers import Echo
from proxy import eventually, service
from wire import Wire

class Qos(World):
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
        for name, wanted in (("gold", 30), ("one", 5), ("two", 5)):
            self.assertGreater(rates[name], wanted * 0.9, rates)
        # What a sender that is held up leaves is spare, for those behind it.
        self.assertGreater(rates["zero"], 40, rates)
        self.assertGreater(sum(rates.values()), 93, rates)
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
                self.assert_marks(running, web, wires, 34, ("EF", 46))
                running.stop()

    def test_a_link_that_is_too_slow_for_the_guarantees_is_refused(self):
        web = service((SERVER, 80), listen=f"{PROXY}:8000", qos={"guarantee": "50Mbps"})
        running = self.begin(web, settings={"qos": {"enabled": True, "link_rate": "100Mbps"}})
        self.assertEqual("failure", running.reload([web], settings={"qos": {"enabled": True, "link_rate": "40Mbps"}}))
        self.assertIn("50Mbps with qos.floors; qos.link_rate is 40Mbps", running.log())
        self.assertEqual(100_000_000, running.json("/api/v1/config")["qos"]["link_rate"])


if __name__ == "__main__":
    proxy.main()
