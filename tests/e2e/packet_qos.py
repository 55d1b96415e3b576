#!/usr/bin/env python3
"""Marks and rates in the packet plane, between real programs."""
import json
import time

import proxy
from netns import PROXY_TO_SERVER, SERVER, SERVER6, inside
from packet_plane import VIP, VIP6, PacketPlane
from peers import Datagrams, Echo
from proxy import eventually, service
from wire import Wire

ON = {"qos": {"enabled": True}}


class PacketQos(PacketPlane):
    def rows(self, running, name):
        with inside(self.middle):
            shown = json.loads(running.command("qos", "--json").stdout)
        return {(row["direction"], row["priority"]): row for row in shown if row["service"] == name}

    def check_marks(self, **packet):
        for family, vip, endpoint, towards_server in (("IPv4", VIP, SERVER, PROXY_TO_SERVER),
                                                      ("IPv6", f"[{VIP6}]", SERVER6, "fd93:2::1")):
            with self.subTest(family):
                echo = self.serve(lambda host=endpoint: Echo(host=host))
                web = service((endpoint, echo.port), listen=f"{vip}:80", qos={"priority": "P1"})
                running = self.begin(web, settings=ON, **packet)
                self.assert_in_kernel(running)
                wires = [self.keep(Wire(self.client, "up0", vip.strip("[]"))),
                         self.keep(Wire(self.server, "up0", towards_server))]
                client = self.dial(web)
                self.assert_echo(client)
                running.reload([{**web, "qos": {"dscp": "EF"}}], settings=ON)
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

    def test_every_packet_carries_the_mark_at_native_xdp(self):
        self.check_marks(mode="native")

    def test_every_packet_carries_the_mark_at_tc(self):
        self.check_marks(mode="tc")

    @proxy.requires("iperf3")
    def test_datagrams_above_the_rate_are_dropped(self):
        def limited(rate):
            # iperf3 speaks TCP with its server before the datagrams.
            return [service((SERVER, 5201), name=protocol, protocol=protocol, listen=f"{VIP}:5201",
                            **({"qos": {"rate": rate}} if protocol == "udp" else {})) for protocol in ("tcp", "udp")]
        running = self.begin(*limited("20Mbps"), settings=ON)
        self.assert_in_kernel(running, "udp")
        self.iperf3_server(5201)
        for bits, rate in ((20e6, "20Mbps"), (5e6, "5Mbps")):
            self.assertEqual("success", running.reload(limited(rate), settings=ON))
            for direction, options in (("up", ()), ("down", ("-R",))):
                with self.subTest(rate, direction=direction):
                    total = self.iperf3(5201, "-u", "-b", f"{2 * bits}", "-l", "1200", "-t", "3", *options, host=VIP)["end"]["sum"]
                    kept = total["bits_per_second"] * (1 - total["lost_percent"] / 100)
                    self.assertAlmostEqual(bits, kept, delta=bits * 0.03)
        rows = self.rows(running, "udp")
        self.assertEqual({5_000_000}, {row["rate"] for row in rows.values()})
        for direction in ("up", "down"):
            row = rows[direction, "P3"]
            self.assertGreater(row["dropped"], 5000)
            self.assertAlmostEqual(row["processed_bytes"], 3 * 25e6 / 8, delta=1e6)
        metrics = running.metrics()
        dropped = metrics.sum("qos_packets_dropped_total", service="udp", reason="over_rate")
        self.assertEqual(sum(row["dropped"] for row in rows.values()), dropped)
        self.assertEqual(dropped, metrics.sum("dropped_total", service="udp", reason="over_rate"))
        self.assertGreater(running.service("udp")["dropped"]["over_rate"], 0)

    def test_what_needs_a_queue_is_the_stream_planes(self):
        self.serve(lambda: Echo(host=SERVER, port=8080))
        self.serve(lambda: Datagrams(host=SERVER, port=8080))
        web = service((SERVER, 8080), listen="10.93.1.1:80", qos={"rate": "1Gbps"})
        running = self.begin(web, settings=ON)
        shown = running.service("web")
        self.assertEqual("stream", shown["plane"])
        self.assertIn("qos.rate", shown["plane_reason"])
        # Without the rate the packet plane takes it; with a link, nobody.
        free = {**web, "qos": {}}
        self.assertEqual("success", running.reload([free], settings=ON))
        eventually(lambda: running.service("web")["plane"] == "packet", "the packet plane has it")
        self.assertEqual("success", running.reload([free], settings={"qos": {"enabled": True, "link_rate": "10Gbps"}}))
        self.assertIn("link_rate", running.service("web")["plane_reason"])


if __name__ == "__main__":
    proxy.main()
