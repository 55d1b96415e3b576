#!/usr/bin/env python3
"""Datagrams: whole, to the right client, of any size, in bursts; sessions that end, and endpoints that are not there."""
import hashlib
import random
import select
import shutil
import socket
import struct
import subprocess
import time
import unittest

import proxy
from peers import Datagrams
from proxy import address_of, eventually, free_port, service


class Udp(proxy.ProxyTest):
    def client(self, source="127.0.0.1", timeout=3.0, family=socket.AF_INET):
        client = self.keep(socket.socket(family, socket.SOCK_DGRAM))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        client.bind((source, 0))
        client.settimeout(timeout)
        return client

    def ask(self, client, target, data, attempts=3):
        """UDP promises nothing, loopback loses only when a buffer is full: the answer, asked for up to three times."""
        for _ in range(attempts):
            client.sendto(data, address_of(target))
            try:
                return client.recv(65535)
            except TimeoutError:
                continue
        return None


class Sessions(Udp):
    def test_every_size(self):
        server = self.keep(Datagrams())
        echo = service(server.port, name="echo", protocol="udp")
        self.start(echo)
        client = self.client()
        chance = random.Random(4)
        for size in (0, 1, 2, 511, 1400, 1472, 1473, 9000, 32767, 65506, 65507):
            with self.subTest(size=size):
                data = chance.randbytes(size)
                self.assertEqual(data, self.ask(client, echo, data))

    def test_each_client_gets_its_own_replies(self):
        server = self.keep(Datagrams(lambda data, peer: hashlib.sha256(data).digest() + data))
        echo = service(server.port, name="echo", protocol="udp")
        running = self.start(echo, settings={"stream": {"workers": 2}})
        clients = [self.client(source=f"127.0.{n // 100}.{n % 100 + 1}") for n in range(200)]
        for turn in range(3):
            for number, client in enumerate(clients):
                client.sendto(f"client {number} turn {turn}".encode(), address_of(echo))
            for number, client in enumerate(clients):
                data = f"client {number} turn {turn}".encode()
                self.assertEqual(hashlib.sha256(data).digest() + data, client.recv(1000))
        self.assertEqual(200, running.service("echo")["active_connections"])
        self.assertEqual(200, len(server.peers), "each session has an address of its own towards the endpoint")

    def test_replies_come_from_the_address_that_was_asked(self):
        server = self.keep(Datagrams())
        port = free_port()
        echo = service(server.port, name="echo", protocol="udp", listen=f"0.0.0.0:{port}")
        self.start(echo)
        client = self.client()
        for asked in ("127.0.0.1", "127.0.0.77"):
            client.sendto(b"who?", (asked, port))
            self.assertEqual((b"who?", (asked, port)), client.recvfrom(100))

    def test_ipv6(self):
        server = self.keep(Datagrams(host="::1"))
        echo = service((server.host, server.port), name="echo", protocol="udp", listen=f"[::1]:{free_port()}")
        self.start(echo)
        client = self.client("::1", family=socket.AF_INET6)
        self.assertEqual(b"six", self.ask(client, echo, b"six"))

    def test_a_session_expires_and_begins_anew(self):
        server = self.keep(Datagrams())
        echo = service(server.port, name="echo", protocol="udp", idle_timeout="400ms")
        running = self.start(echo)
        client = self.client()
        self.assertEqual(b"one", self.ask(client, echo, b"one"))
        for _ in range(6):  # traffic keeps it
            time.sleep(0.15)
            self.assertEqual(b"on", self.ask(client, echo, b"on"))
        self.assertEqual(1, len(server.peers))
        eventually(lambda: running.service("echo")["active_connections"] == 0, "the session is over", 5)
        running.wait_ended_with("idle_timeout", 1, "echo")
        self.assertEqual(b"two", self.ask(client, echo, b"two"))
        self.assertEqual(1, running.service("echo")["active_connections"])

    def test_bursts_arrive_whole_and_in_order(self):
        server = self.keep(Datagrams())
        echo = service(server.port, name="echo", protocol="udp")
        running = self.start(echo)
        client = self.client()
        sent, received = 0, []
        for burst in range(40):
            for _ in range(50):
                client.sendto(struct.pack("!I", sent) + b"x" * (sent % 1300), address_of(echo))
                sent += 1
            while len(received) < sent and select.select([client], [], [], 1.0)[0]:
                data = client.recv(2000)
                number = struct.unpack("!I", data[:4])[0]
                self.assertEqual(number % 1300, len(data) - 4, "a datagram keeps its bounds")
                received.append(number)
        self.assertEqual(list(range(sent)), received)
        metrics = running.metrics()
        self.assertEqual(2 * sent, metrics.sum("packets_total", service="echo"))

    def test_session_limit(self):
        server = self.keep(Datagrams())
        echo = service(server.port, name="echo", protocol="udp", limits={"connections": 2})
        running = self.start(echo)
        for _ in range(2):
            self.assertEqual(b"in", self.ask(self.client(), echo, b"in"))
        self.assertIsNone(self.ask(self.client(timeout=0.3), echo, b"out", attempts=1))
        self.assertEqual(1, running.metrics().sum("dropped_total", service="echo", reason="connection_limit"))

    def test_a_reload_keeps_sessions(self):
        server = self.keep(Datagrams())
        echo = service(server.port, name="echo", protocol="udp")
        running = self.start(echo)
        client = self.client()
        self.assertEqual(b"one", self.ask(client, echo, b"one"))
        running.reload([echo, service(server.port, name="further", protocol="udp")])
        self.assertEqual(b"two", self.ask(client, echo, b"two"))
        self.assertEqual(1, len(server.peers), "the same session")


class Unreachable(Udp):
    def test_an_endpoint_that_is_not_there_is_counted_and_the_next_one_serves(self):
        server = self.keep(Datagrams())
        echo = service(free_port(), server.port, name="echo", protocol="udp", routing={"policy": "round_robin"})
        running = self.start(echo, settings={"stream": {"workers": 1}})
        client = self.client(timeout=0.3)
        self.assertEqual(b"hello", self.ask(client, echo, b"hello", attempts=10))
        running.wait_ended_with("endpoint_unreachable", 1, "echo")
        self.assertIsNone(running.poll())

    def test_no_endpoint_at_all_is_counted(self):
        echo = service(free_port(), name="echo", protocol="udp")
        running = self.start(echo)
        client = self.client(timeout=0.1)
        for _ in range(5):
            client.sendto(b"x", address_of(echo))
            time.sleep(0.02)
        running.wait_ended_with("endpoint_unreachable", 1, "echo")


def dns_answer(query, peer):
    """A DNS server in a few lines: 192.0.2.53 for every A question (RFC 1035)."""
    identity = query[:2]
    end = 12
    while query[end]:
        end += query[end] + 1
    question = query[12:end + 5]
    return identity + struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0) + question + \
        b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 53))


class Dns(Udp):
    @proxy.requires("dig")
    def test_dig_through_the_proxy(self):
        server = self.keep(Datagrams(dns_answer))
        dns = service(server.port, name="dns", protocol="udp")
        self.start(dns)
        host, port = address_of(dns)
        for number in range(10):
            result = subprocess.run([shutil.which("dig"), f"@{host}", "-p", str(port), "+short", "+tries=3", "+time=2",
                                     "+noedns", f"host{number}.example", "A"], capture_output=True, text=True, timeout=20)
            self.assertEqual("192.0.2.53", result.stdout.strip(), result.stderr)


if __name__ == "__main__":
    proxy.main()
