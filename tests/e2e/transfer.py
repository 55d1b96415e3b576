#!/usr/bin/env python3
"""Every byte arrives, once, in order, both ways, whatever the size, the pace and the order in which the sides close."""
import concurrent.futures
import random
import threading
import time
import unittest

import proxy
from peers import Behaving, Digest, Exchange, Pattern, exchange
from proxy import address_of, eventually, service

MEGABYTE = 1_000_000


class Transfers:
    """The same for both ways of moving bytes: subclasses say which."""
    forward = ""

    def setUp(self):
        super().setUp()
        self.server = self.keep(Exchange())
        self.web = service(self.server.port)
        self.proxy = self.start(self.web, settings={"stream": {"forward": self.forward, "workers": 2}})
        self.address = address_of(self.web)
        self.identity = 0

    def exchange(self, up, down, **options):
        self.identity += 10
        return exchange(self.server, self.address, self.identity, up, down, **options)

    def test_sizes_up_and_down(self):
        for size in (0, 1, 2, 1459, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 5 * MEGABYTE):
            with self.subTest(size=size, way="up"):
                self.assertIsNone(self.exchange(size, 0))
            with self.subTest(size=size, way="down"):
                self.assertIsNone(self.exchange(0, size))
            with self.subTest(size=size, way="answered after the client's end"):
                self.assertIsNone(self.exchange(size, size, after=True))

    def test_both_directions_at_once(self):
        self.assertIsNone(self.exchange(60 * MEGABYTE, 60 * MEGABYTE))

    def test_half_closes_at_random_points(self):
        chance = random.Random(20)
        for round_number in range(40):
            up, down = (int(chance.choice((10, 1e3, 1e5, 3e6)) * chance.random()) for _ in range(2))
            pauses = {"piece_pause": chance.choice((0, 0, 0.01))}
            with self.subTest(round=round_number, up=up, down=down, **pauses):
                self.assertIsNone(self.exchange(up, down, **pauses))

    def test_sixteen_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            jobs = [pool.submit(exchange, self.server, self.address, 1000 + 10 * n, (n + 1) * 400_001, (17 - n) * 500_003)
                    for n in range(16)]
            self.assertEqual([None] * 16, [job.result() for job in jobs])
        eventually(lambda: self.proxy.service()["active_connections"] == 0, "all connections are over")

    def test_the_books_agree_with_the_bytes(self):
        self.assertIsNone(self.exchange(1_000_000, 3_000_000))
        metrics = eventually(lambda: (m := self.proxy.metrics()).sum("connections_total", result="finished") == 1 and m,
                             "the connection is counted as finished")
        self.assertEqual(1_000_024, metrics.sum("received_bytes_total", service="web"))
        self.assertEqual(3_000_000, metrics.sum("sent_bytes_total", service="web"))
        flow = eventually(lambda: [f for f in self.proxy.flows() if f["state"] == "closed"], "a flow record")[0]
        self.assertEqual((1_000_024, 3_000_000, "finished"),
                         (flow["received_bytes"], flow["sent_bytes"], flow["end_reason"]))


class Copy(Transfers, proxy.ProxyTest):
    forward = "copy"


class Splice(Transfers, proxy.ProxyTest):
    forward = "splice"


class Automatic(proxy.ProxyTest):
    def test_one_gigabyte(self):
        server = self.keep(Exchange())
        web = service(server.port)
        self.start(web)
        self.assertIsNone(exchange(server, address_of(web), 1, 1000 * MEGABYTE, 1))

    def test_many_short_ones_end_in_order(self):
        server = self.keep(Exchange())
        web = service(server.port)
        running = self.start(web)
        for number in range(300):
            self.assertIsNone(exchange(server, address_of(web), number * 10, number, number * 7))
        eventually(lambda: running.metrics().sum("connections_total", service="web", result="finished") == 300,
                   "300 finished connections")
        self.assertEqual(0, running.service()["active_connections"])


class BackPressure(proxy.ProxyTest):
    SIZE = 500 * MEGABYTE

    def pump(self, forward):
        """A server pushes while the client does not read: the proxy must stop reading, not store."""
        pattern = Pattern(7, self.SIZE)

        def push(connection):
            connection.settimeout(120)
            for piece in pattern.blocks():
                connection.sendall(piece)

        server = self.keep(Behaving(push))
        web = service(server.port)
        running = self.start(web, settings={"stream": {"forward": forward, "workers": 1}})
        before = running.resident_bytes()
        client = self.connect(web, timeout=120)
        peak = before
        for _ in range(20):
            time.sleep(0.05)
            peak = max(peak, running.resident_bytes())
        self.assertLess(pattern.count, self.SIZE // 2, "the server was stopped by back-pressure")
        received = Digest()
        reader = threading.Thread(target=received.drain, args=(client,), daemon=True)
        reader.start()
        while reader.is_alive():
            reader.join(0.05)
            peak = max(peak, running.resident_bytes())
        self.assertEqual((self.SIZE, pattern.hash.hexdigest()), (received.count, received.hash.hexdigest()))
        self.assertLess(peak - before, 16 * MEGABYTE, "memory stays within the buffers")

    def test_a_client_that_does_not_read_copy(self):
        self.pump("copy")

    def test_a_client_that_does_not_read_splice(self):
        self.pump("splice")

    def test_a_slow_reader_gets_everything(self):
        server = self.keep(Exchange())
        web = service(server.port)
        self.start(web)
        self.assertIsNone(exchange(server, address_of(web), 1, 10, 30 * MEGABYTE, pause=0.02, chunk=400_000))


if __name__ == "__main__":
    proxy.main()
