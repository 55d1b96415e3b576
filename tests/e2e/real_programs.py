#!/usr/bin/env python3
"""Programs that people use, through the proxy to programs that people use. One that is missing skips its test by name."""
import json
import re
import shutil
import socket
import subprocess
import time
import unittest
from pathlib import Path

import proxy
from peers import Behaving, Recorder
from proxy import address_of, eventually, free_port, requires, service


def program(*command, timeout=60, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **more)


def http_server(connection):
    """Answers each request on a kept connection with two bytes, as a small web service would."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
        while b"\r\n\r\n" in data:
            head, data = data.split(b"\r\n\r\n", 1)
            keep = b"connection: close" not in head.lower() and (b"HTTP/1.1" in head or b"keep-alive" in head.lower())
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: "
                               + (b"keep-alive" if keep else b"close") + b"\r\n\r\nok")
            if not keep:
                return


def held_by_one():
    """Bytes that the buffers along one proxied connection can hold: two sockets a leg, and the proxy's own."""
    largest = 0
    for name in ("tcp_rmem", "tcp_wmem"):
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            largest += int(file.read().split()[2])
    return 2 * largest + (1 << 20)


class Iperf(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        if not shutil.which("iperf3"):
            self.skipTest("iperf3 is not installed")
        port = free_port()
        self.server = subprocess.Popen(["iperf3", "-s", "-p", str(port), "-B", "127.0.0.1"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.end_server)
        listen = f"127.0.0.1:{free_port()}"
        self.tcp = service(port, name="iperf", listen=listen)
        # iperf3's control connection is TCP and its datagrams UDP, to one port.
        self.udp = service(port, name="iperf-udp", protocol="udp", listen=listen)

        # Looked up, not tried: a connection that ends without a test would keep the server busy.
        eventually(lambda: f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text("ascii"), "iperf3 listens")

    def end_server(self):
        self.server.terminate()
        self.server.wait(10)

    def client(self, *options):
        host, port = address_of(self.tcp)
        for _ in range(20):  # the server ends its last test a moment after the client
            result = program("iperf3", "-c", host, "-p", str(port), "-J", "-t", "1", *options)
            report = json.loads(result.stdout)
            if "error" not in report:
                break
            time.sleep(0.1)
        self.assertEqual(0, result.returncode, report.get("error"))
        return report["end"]

    def check_tcp(self, running, *options):
        with self.subTest(options=options):
            end = self.client(*options)
            self.assertGreater(end["sum_received"]["bytes"], 50_000_000)
            # What was under way when time was up may be missing, no more than buffers hold.
            connections = len(end["streams"])
            self.assertLess(end["sum_sent"]["bytes"] - end["sum_received"]["bytes"], connections * held_by_one())
        eventually(lambda: running.service("iperf")["active_connections"] == 0, "all connections are over")

    def test_tcp(self):
        running = self.start(self.tcp)
        for options in ((), ("-R",), ("-P", "4"), ("-P", "4", "-R")):
            self.check_tcp(running, *options)

    def test_tcp_both_ways_at_once(self):
        # iperf3 tells its two connections apart by the order in which they arrive: two workers may swap them, and both
        # ends then send on the same one.
        self.check_tcp(self.start(self.tcp, settings={"stream": {"workers": 1}}), "--bidir")

    def test_udp(self):
        self.start(self.tcp, self.udp)
        for options in (("-b", "50M"), ("-b", "50M", "-R"), ("-b", "20M", "-P", "4")):
            with self.subTest(options=options):
                total = self.client("-u", "-l", "1200", *options)["sum"]
                self.assertGreater(total["packets"], 1000)
                self.assertLess(total["lost_percent"], 5)


class Http(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        self.server = self.keep(Behaving(http_server, backlog=1024))
        self.web = service(self.server.port)
        self.proxy = self.start(self.web)
        self.url = "http://%s:%d/" % address_of(self.web)

    @requires("wrk")
    def test_wrk(self):
        result = program("wrk", "-t", "1", "-c", "20", "-d", "1s", self.url)
        self.assertEqual(0, result.returncode, result.stderr)
        self.assertGreater(int(re.search(r"(\d+) requests in", result.stdout).group(1)), 200)
        self.assertNotIn("Socket errors", result.stdout)
        self.assertNotIn("Non-2xx", result.stdout)

    @requires("ab")
    def test_ab_with_fresh_and_with_kept_connections(self):
        for options in ((), ("-k",)):
            result = program("ab", *options, "-q", "-n", "600", "-c", "10", self.url)
            self.assertEqual(0, result.returncode, result.stderr)
            self.assertRegex(result.stdout, r"Complete requests:\s+600")
            self.assertRegex(result.stdout, r"Failed requests:\s+0")

    @requires("curl")
    def test_curl(self):
        result = program("curl", "-sS", "--max-time", "10", self.url)
        self.assertEqual((0, "ok"), (result.returncode, result.stdout))


class Netcat(proxy.ProxyTest):
    @requires("nc")
    def test_nc_and_its_half_close(self):
        recorder = self.keep(Recorder())
        web = service(recorder.port)
        self.start(web)
        host, port = address_of(web)
        result = subprocess.run(["nc", "-N", "-w", "5", host, str(port)], input=b"typed by hand\n", capture_output=True, timeout=20)
        self.assertEqual(b"k", result.stdout)
        eventually(lambda: recorder.seen == [b"typed by hand\n"], "all of it arrived")

    @requires("nc")
    def test_nc_over_udp(self):
        from peers import Datagrams
        server = self.keep(Datagrams(lambda data, peer: b"heard " + data))
        echo = service(server.port, name="echo", protocol="udp")
        self.start(echo)
        host, port = address_of(echo)
        result = subprocess.run(["nc", "-u", "-W", "1", "-w", "5", host, str(port)], input=b"hello", capture_output=True, timeout=20)
        self.assertEqual(b"heard hello", result.stdout)


if __name__ == "__main__":
    proxy.main()
