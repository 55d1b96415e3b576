#!/usr/bin/env python3
"""PROXY protocol, versions 1 and 2, to endpoints and from clients (HAProxy's proxy-protocol.txt), and what is not one."""
import ipaddress
import socket
import struct
import time
import unittest

import proxy
from peers import Echo, Recorder
from proxy import eventually, free_port, service

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(source, destination, command=1, extra=b""):
    """A header of version 2 for (host, port) pairs."""
    hosts = [ipaddress.ip_address(a[0]) for a in (source, destination)]
    family = 0x11 if hosts[0].version == 4 else 0x21
    body = hosts[0].packed + hosts[1].packed + struct.pack("!HH", source[1], destination[1]) + extra
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def parse_version_2(data):
    """((source, port), (destination, port), what follows)."""
    assert data[:12] == SIGNATURE, data[:40]
    command, family, size = struct.unpack("!BBH", data[12:16])
    assert command == 0x21, hex(command)
    width = 4 if family == 0x11 else 16
    body = data[16:16 + size]
    source, destination = (str(ipaddress.ip_address(body[i * width:(i + 1) * width])) for i in range(2))
    ports = struct.unpack("!HH", body[2 * width:2 * width + 4])
    return (source, ports[0]), (destination, ports[1]), data[16 + size:]


class ToEndpoints(proxy.ProxyTest):
    def through(self, listen=None, **options):
        recorder = self.keep(Recorder())
        web = service(recorder.port, listen=listen, **options)
        self.start(web)
        client = self.connect(web)
        client.sendall(b"payload")
        self.assertEqual(b"k", client.recv(1))
        names = client.getsockname()[:2], client.getpeername()[:2]
        client.close()
        eventually(lambda: recorder.seen, "the endpoint saw the connection's end")
        return recorder.seen[0], *names

    def test_version_1(self):
        data, own, peer = self.through(proxy_protocol="v1")
        self.assertEqual(f"PROXY TCP4 {own[0]} {peer[0]} {own[1]} {peer[1]}\r\npayload".encode(), data)

    def test_version_1_over_ipv6(self):
        data, own, peer = self.through(f"[::1]:{free_port()}", proxy_protocol="v1")
        self.assertEqual(f"PROXY TCP6 ::1 ::1 {own[1]} {peer[1]}\r\npayload".encode(), data)

    def test_version_2(self):
        data, own, peer = self.through(proxy_protocol="v2")
        self.assertEqual((own, peer, b"payload"), parse_version_2(data))

    def test_version_2_over_ipv6(self):
        data, own, peer = self.through(f"[::1]:{free_port()}", proxy_protocol="v2")
        self.assertEqual((own, peer, b"payload"), parse_version_2(data))


class FromClients(proxy.ProxyTest):
    HEADERS = {
        "v1": b"PROXY TCP4 203.0.113.7 192.0.2.1 50123 443\r\n",
        "v1 over IPv6": b"PROXY TCP6 2001:db8::7 2001:db8::1 50123 443\r\n",
        "v2": version_2(("203.0.113.7", 50123), ("192.0.2.1", 443)),
        "v2 over IPv6": version_2(("2001:db8::7", 50123), ("2001:db8::1", 443)),
        "v2 with further fields": version_2(("203.0.113.7", 50123), ("192.0.2.1", 443), extra=b"\x04\x00\x03abc"),
    }

    def setUp(self):
        super().setUp()
        self.echo = self.keep(Echo())
        self.web = service(self.echo.port, accept_proxy_protocol=True)

    def test_the_header_names_the_client(self):
        running = self.start(self.web)
        for name, header in self.HEADERS.items():
            with self.subTest(header=name):
                client = self.connect(self.web)
                client.sendall(header)
                self.assert_echo(client, b"first words")
                host = "2001:db8::7" if "IPv6" in name else "203.0.113.7"
                expected = f"[{host}]:50123" if ":" in host else f"{host}:50123"
                self.assertIn(expected, [f["client"] for f in running.flows() if f["state"] == "active"])
                client.close()

    def test_payload_in_the_header_s_segment_arrives(self):
        self.start(self.web)
        for name, header in self.HEADERS.items():
            with self.subTest(header=name):
                client = self.connect(self.web)
                client.sendall(header + b"at once")
                self.assertEqual(b"at once", proxy.receive_exactly(client, 7))

    def test_a_header_in_single_bytes(self):
        self.start(self.web)
        for name, header in self.HEADERS.items():
            with self.subTest(header=name):
                client = self.connect(self.web)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in header:
                    client.send(bytes([byte]))
                    time.sleep(0.001)
                self.assert_echo(client)

    def test_unknown_and_local_keep_the_real_address(self):
        running = self.start(self.web)
        for header in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00"):
            with self.subTest(header=header):
                client = self.connect(self.web)
                client.sendall(header)
                self.assert_echo(client)
                own = "%s:%d" % client.getsockname()
                self.assertIn(own, [f["client"] for f in running.flows() if f["state"] == "active"])

    def test_who_has_not_sent_a_header_yet_takes_a_place(self):
        self.web["limits"] = {"connections": 2}
        running = self.start(self.web)
        silent = [self.connect(self.web) for _ in range(2)]
        eventually(lambda: running.service()["active_connections"] == 2, "both wait for their headers")
        self.assert_turned_away(self.web)
        running.wait_ended_with("connection_limit")
        silent[0].sendall(self.HEADERS["v1"])
        self.assert_echo(silent[0])
        silent[1].close()
        eventually(lambda: running.service()["active_connections"] == 1, "one has left")

    def test_access_lists_see_the_client_of_the_header(self):
        self.web["access"] = {"deny": ["203.0.113.0/24"]}
        running = self.start(self.web)
        client = self.connect(self.web)
        client.sendall(self.HEADERS["v2"])
        self.assert_closed(client)
        running.wait_ended_with("access_denied")
        client = self.connect(self.web)
        client.sendall(self.HEADERS["v2 over IPv6"])
        self.assert_echo(client)

    def test_it_is_handed_on(self):
        recorder = self.keep(Recorder())
        web = service(recorder.port, accept_proxy_protocol=True, proxy_protocol="v2")
        self.start(web)
        client = self.connect(web)
        client.sendall(self.HEADERS["v1"] + b"payload")
        self.assertEqual(b"k", client.recv(1))
        client.close()
        eventually(lambda: recorder.seen, "the endpoint saw the connection's end")
        self.assertEqual((("203.0.113.7", 50123), ("192.0.2.1", 443), b"payload"), parse_version_2(recorder.seen[0]))


class Garbage(proxy.ProxyTest):
    BAD = {
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "zeros": b"\0" * 200,
        "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
        "v1 with a wrong address": b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n",
        "v1 with a wrong port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
        "v1 with one field too many": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "v2 with a wrong version": SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
        "v2 too short for its family": SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
        "v2 with a huge length": SIGNATURE + b"\x21\x11\xff\xff" + b"\0" * 70000,
        "almost the signature": SIGNATURE[:11] + b"x" + b"\x21\x11\x00\x0c" + b"\0" * 12,
    }

    def test_it_is_closed_counted_and_logged_and_reaches_no_endpoint(self):
        echo = self.keep(Echo())
        web = service(echo.port, accept_proxy_protocol=True)
        running = self.start(web)
        steady = self.connect(web)
        steady.sendall(FromClients.HEADERS["v1"])
        self.assert_echo(steady)
        bad = {k: v for k, v in self.BAD.items() if k != "v2 with a huge length"}
        for name, data in bad.items():
            with self.subTest(input=name):
                client = self.connect(web)
                client.sendall(data)
                self.assert_closed(client)
        running.wait_ended_with("proxy_header_invalid", len(bad))
        self.assertIn("proxy_header_invalid", running.log(None))
        self.assertEqual(1, echo.accepted)
        self.assert_echo(steady)

    def test_a_huge_header_ends_without_growing(self):
        echo = self.keep(Echo())
        web = service(echo.port, accept_proxy_protocol=True)
        running = self.start(web, settings={"stream": {"connect_timeout": "500ms"}})
        before = running.resident_bytes()
        for _ in range(20):
            client = self.connect(web)
            try:
                client.sendall(self.BAD["v2 with a huge length"])
            except ConnectionError:
                continue
        self.assertLess(running.resident_bytes() - before, 8_000_000)
        self.assertEqual(None, running.poll())

    def test_a_byte_now_and_then_is_ended_in_time(self):
        echo = self.keep(Echo())
        web = service(echo.port, accept_proxy_protocol=True)
        running = self.start(web, settings={"stream": {"connect_timeout": "600ms"}})
        client = self.connect(web)
        began = time.monotonic()
        try:
            for byte in FromClients.HEADERS["v1"]:
                client.send(bytes([byte]))
                time.sleep(0.1)
                if time.monotonic() - began > 3:
                    break
        except ConnectionError:
            pass
        self.assertLess(time.monotonic() - began, 2.5, "each byte must not start the time anew")
        running.wait_ended_with("proxy_header_timeout")
        self.assertEqual(0, echo.accepted)


if __name__ == "__main__":
    proxy.main()
