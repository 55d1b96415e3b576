#!/usr/bin/env python3
"""Marks and rates in the packet plane, between real programs."""
import ctypes
import json
import mmap
import signal
import socket
import struct
import threading
import time

import proxy
from netns import PROXY, PROXY_TO_SERVER, SERVER, SERVER6, inside, libc
from packet_plane import VIP, VIP6, PacketPlane
from peers import Datagrams, Echo
from proxy import eventually, service
from wire import Wire

ON = {"qos": {"enabled": True}}


def take_queue(device):
    """An AF_XDP socket that has an interface's first queue (Documentation/networking/af_xdp.rst)."""
    sol_xdp, rx_ring, umem_reg, fill_ring, completion_ring, copy = 283, 2, 4, 5, 6, 2
    taken = socket.socket(44, socket.SOCK_RAW)
    memory = mmap.mmap(-1, 1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    taken.setsockopt(sol_xdp, umem_reg, struct.pack("QQII", address, len(memory), 4096, 0))
    for ring in (fill_ring, completion_ring, rx_ring):
        taken.setsockopt(sol_xdp, ring, struct.pack("i", 64))
    place = struct.pack("HHIII", 44, copy, socket.if_nametoindex(device), 0, 0)
    if libc.bind(taken.fileno(), place, len(place)):
        raise OSError(ctypes.get_errno(), f"bind to {device}")
    return taken


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
                self.assert_marks(running, web, wires, 34, ("EF", 46))
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

    def rates(self, *runs):
        """Mbit/s of iperf3 runs at one time: their port and options."""
        got = [None] * len(runs)

        def run(i, port, *options):
            got[i] = self.iperf3(port, *options, host=VIP)["end"]["sum_received"]["bits_per_second"] / 1e6
        threads = [threading.Thread(target=run, args=(i, *one)) for i, one in enumerate(runs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return got

    @proxy.requires("iperf3")
    def test_tcp_waits_for_its_turns(self):
        def limited(rate):
            return [service((SERVER, 5201), listen=f"{VIP}:5201", qos={"rate": rate})]
        running = self.begin(*limited("10Mbps"), settings=ON)
        self.assert_in_kernel(running)
        self.assertTrue(all("AF_XDP" in one["queues"] for one in running.json("/status")["packet_plane"]["interfaces"]))
        self.iperf3_server(5201)
        for bits, rate in ((10e6, "10Mbps"), (200e6, "200Mbps")):
            self.assertEqual("success", running.reload(limited(rate), settings=ON))
            for options in ((), ("-R",), ("-P", "8")):
                with self.subTest(rate, options=options):
                    got, = self.rates((5201, "-t", "3", "-O", "1", *options))
                    self.assertLess(got * 1e6, bits * 1.03)
                    self.assertGreater(got * 1e6, bits * 0.90)  # a machine that does other things besides
        row = self.rows(running, "web")["up", "P3"]
        self.assertGreater(row["processed_bytes"], 40e6)
        self.assertEqual(0, running.metrics().sum("qos_packets_dropped_total", service="web", reason="over_rate"))
        # Killed, flows go on without waiting; the next process has them wait again.
        running.signal(signal.SIGKILL)
        running.wait()
        free, = self.rates((5201, "-t", "2"))
        self.assertGreater(free, 300)
        running.ended = None
        running.start()
        self.assertTrue(running.json("/status")["packet_plane"]["took_over"])
        again, = self.rates((5201, "-t", "3", "-O", "1"))
        self.assertAlmostEqual(200, again, delta=20)

    @proxy.requires("iperf3")
    def test_both_planes_take_turns_on_one_link(self):
        """A guarantee in the packet plane, under what the stream plane sends with a higher priority."""
        gold = service((SERVER, 5201), name="gold", listen=f"{VIP}:5201", qos={"priority": "P3", "guarantee": "30Mbps"})
        bulk = service((SERVER, 5202), name="bulk", listen=f"{PROXY}:5202", plane="stream", qos={"priority": "P0"})
        running = self.begin(gold, bulk, settings={"qos": {"enabled": True, "link_rate": "100Mbps"}})
        self.assert_in_kernel(running, "gold")
        self.assertEqual("stream", running.service("bulk")["plane"])
        for port in (5201, 5202):
            self.iperf3_server(port)
        threads, got = [], {}
        for name, port, host in (("gold", 5201, VIP), ("bulk", 5202, PROXY)):
            threads.append(threading.Thread(target=lambda name=name, port=port, host=host: got.update(
                {name: self.iperf3(port, "-t", "4", "-O", "1", host=host)["end"]["sum_received"]["bits_per_second"] / 1e6})))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertGreater(got["gold"], 27, got)
        self.assertGreater(got["bulk"], 60, got)
        self.assertLess(sum(got.values()), 103, got)

    def test_datagrams_are_marked_where_they_waited_too_long(self):
        echo = self.serve(lambda: Datagrams(reply=lambda data, peer: None, host=SERVER))
        web = service((SERVER, echo.port), protocol="udp", listen=f"{VIP}:80",
                      qos={"rate": "2Mbps", "ecn": True, "trust": True})
        running = self.begin(web, settings=ON)
        self.assert_in_kernel(running)
        wire = self.keep(Wire(self.server, "up0", PROXY_TO_SERVER))
        with inside(self.client):
            sender = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 46 << 2 | 2)
        sender.connect((VIP, 80))
        begun = time.monotonic()
        for i in range(1200):  # 4 Mbit/s, by the clock: a busy machine sleeps longer than it is told
            sender.send(b"x" * 1000)
            time.sleep(max(0, begun + i * 0.002 - time.monotonic()))
        time.sleep(0.3)
        self.assertEqual({46}, {traffic_class >> 2 for traffic_class, _ in wire.classes})
        self.assertTrue(all(sound for _, sound in wire.classes))
        marked = sum(traffic_class & 3 == 3 for traffic_class, _ in wire.classes)
        self.assertGreater(marked, 0, "a few: most of what is too much finds the queue full")
        row = self.rows(running, "web")["up", "P0"]
        self.assertAlmostEqual(marked, row["marked"], delta=1)
        self.assertGreater(row["dropped"], 0, "a sender that does not listen has no long queue")

    def test_what_cannot_wait_is_the_stream_planes(self):
        self.serve(lambda: Echo(host=SERVER, port=8080))
        web = service((SERVER, 8080), listen="10.93.1.1:80", qos={"rate": "1Gbps"})
        running = self.begin(web, settings=ON, mode="tc")
        shown = running.service("web")
        self.assertEqual("stream", shown["plane"])
        self.assertIn("packet.mode: tc", shown["plane_reason"])
        free = {**web, "qos": {}}
        self.assertEqual("success", running.reload([free]))
        eventually(lambda: running.service("web")["plane"] == "packet", "the packet plane has it")

    def test_an_interface_whose_queue_is_anothers(self):
        """The plane finds out when the program is there already, and sockets serve instead."""
        with inside(self.middle):
            self.keep(take_queue("client0"))
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen="10.93.1.1:80", qos={"rate": "1Gbps"})
        running = self.begin(web, settings=ON)
        eventually(lambda: running.service("web")["plane"] == "stream", "sockets serve it")
        self.assertIn("queue 0 of client0", running.service("web")["plane_reason"])
        self.assert_echo(self.dial(web))


if __name__ == "__main__":
    proxy.main()
