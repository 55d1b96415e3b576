#!/usr/bin/env python3
"""Limits and floods in the packet plane: who is let in, who has to prove its address first, and what the endpoint sees."""
import signal
import socket
import struct
import time

import proxy
from netns import CLIENT, SERVER, SERVER6, inside, ip
from packet_plane import VIP, VIP6, PacketPlane, netns
from peers import Behaving, Datagrams, Echo
from proxy import address_of, eventually, service


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


def syn(source, target, port, source_port):
    """An IPv4 packet that asks for a connection; the kernel fills in the network's checksum."""
    there, here = socket.inet_aton(target), socket.inet_aton(source)
    tcp = struct.pack("!HHIIBBHHH", source_port, port, 0x12345678, 0, 5 << 4, 2, 64240, 0, 0)
    total = checksum(here + there + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, socket.IPPROTO_TCP, 0, here, there) + tcp


def answer(connection):
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


class Admit(PacketPlane):
    def web_server(self, host):
        return self.serve(lambda: Behaving(answer, host=host, port=8080, backlog=1024))

    def curl(self, host):
        """Seconds until connected, and in all."""
        url = f"http://[{host}]/" if ":" in host else f"http://{host}/"
        shown = netns(self.client, "curl", "-sS", "-m", "10", "-w", " %{time_connect} %{time_total}", url).stdout.split()
        self.assertEqual("hello", shown[0])
        return float(shown[1]), float(shown[2])

    def check_proofs(self, **packet):
        self.web_server(SERVER)
        self.web_server(SERVER6)
        web = service((SERVER, 8080), listen=f"{VIP}:80", limits={"backlog": 0})
        web6 = service((SERVER6, 8080), name="web6", listen=f"[{VIP6}]:80", limits={"backlog": 0}, forwarding="dnat")
        running = self.begin(web, web6, **packet)
        for name, host in (("web", VIP), ("web6", VIP6)):
            self.assert_in_kernel(running, name)
            netns(self.client, "ping", "-c1", "-W5", host)  # neighbours are known from here on
            self.curl(host)
            for _ in range(5):
                connected, whole = self.curl(host)
                self.assertLess(connected, 0.5)
                self.assertLess(whole, 2)
            metrics = running.metrics()
            self.assertGreaterEqual(metrics.sum("marchproxy_syn_cookies_total", service=name, result="proven"), 6)
            self.assertGreaterEqual(metrics.sum("marchproxy_syn_cookies_total", service=name, result="sent"), 6)
        return running

    @proxy.requires("curl")
    def test_every_client_proves_its_address_at_native_xdp(self):
        self.check_proofs(mode="native")

    @proxy.requires("curl")
    def test_every_client_proves_its_address_at_tc(self):
        for name in (self.client, self.server):  # checksums that are yet to be computed
            netns(name, "ethtool", "-K", "up0", "tx", "on")
        self.check_proofs(mode="tc")

    @proxy.requires("nft")
    def test_a_firewall_before_the_client_lets_the_proof_pass(self):
        netns(self.client, "nft", "add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; };"
              "add rule inet fw in ct state established,related accept; add rule inet fw in ip protocol icmp accept;"
              "add chain inet fw out { type filter hook output priority 0; };"
              "add rule inet fw out ct state invalid drop")
        self.web_server(SERVER)
        running = self.begin(service((SERVER, 8080), listen=f"{VIP}:80", limits={"backlog": 0}))
        self.curl(VIP)
        for _ in range(3):
            self.assertLess(self.curl(VIP)[0], 0.5)
        self.assertGreater(running.metrics().sum("marchproxy_syn_cookies_total", service="web", result="proven"), 3)

    @proxy.requires("curl")
    def test_a_flood_from_addresses_that_nobody_has(self):
        self.web_server(SERVER)
        backlog, packets = 100, 20_000
        web = service((SERVER, 8080), listen=f"{VIP}:80", limits={"backlog": backlog})
        running = self.begin(web)
        self.curl(VIP)
        with inside(self.client):
            sender = self.keep(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        for n in range(packets):
            sender.sendto(syn(f"198.18.{n >> 8}.{n & 255}", VIP, 80, 1024 + n % 60000), (VIP, 0))
        seen = netns(self.server, "ss", "-Htn", "state", "syn-recv").stdout.splitlines()
        self.assertLessEqual(len(seen), backlog)
        self.assertLess(self.curl(VIP)[0], 2.5, "somebody who is there comes in")
        shown = running.service("web")
        self.assertLessEqual(shown["active_connections"], backlog + 3)
        sent = running.metrics().sum("marchproxy_syn_cookies_total", service="web", result="sent")
        self.assertGreater(sent, packets * 0.9 - backlog)

    def test_connections_of_one_address(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80", limits={"connections_per_source": 2})
        ip("-n", self.client, "address", "add", "10.93.1.77/24", "dev", "up0")
        running = self.begin(web)
        kept = [self.dial(web), self.dial(web)]
        for one in kept:
            self.assert_echo(one)

        def refused():
            with self.assertRaises(OSError):
                self.dial(web, timeout=1.5)
        refused()
        self.assertGreater(running.service("web")["dropped"]["source_limit"], 0)
        self.assert_echo(self.dial(web, source="10.93.1.77"))
        # The count is the kernel's, and outlives the process.
        running.signal(signal.SIGKILL)
        running.wait()
        running.ended = None
        running.start()
        self.assertTrue(running.json("/status")["packet_plane"]["took_over"])
        refused()
        for one in kept:
            self.assert_echo(one)
        web["limits"] = {"connections_per_source": 3}
        self.assertEqual("success", running.reload([web]))
        kept.append(self.dial(web))
        self.assert_echo(kept[-1])
        refused()
        for one in kept:
            one.close()

        def let_in():
            try:
                self.assert_echo(self.dial(web, timeout=1.5))
                return True
            except OSError:
                return False
        eventually(let_in, "those that ended make room", 20)

    def test_packets_of_one_address(self):
        echo = self.serve(lambda: Datagrams(host=SERVER))
        dns = service((SERVER, echo.port), name="dns", protocol="udp", listen=f"{VIP}:53", limits={"packets_per_source": "100/s"})
        running = self.begin(dns)
        with inside(self.client):
            client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(0.5)
        client.connect(address_of(dns))
        begin = time.monotonic()
        for n in range(500):
            client.send(b"%d" % n)
        took = time.monotonic() - begin
        answers = 0
        try:
            while client.recv(100):
                answers += 1
        except TimeoutError:
            pass
        self.assertGreaterEqual(answers, 8)
        self.assertLessEqual(answers, 10 + 100 * took + 2)
        dropped = running.service("dns")["dropped"]["packet_rate"]
        self.assertGreaterEqual(dropped, 500 - answers - 2)
        # Where no packets are counted, the limit is not accepted either.
        elsewhere = service((SERVER, echo.port), name="dns", protocol="udp", listen="0.0.0.0:53", limits={"packets": "100/s"})
        self.assertEqual("failure", running.reload([elsewhere]))
        self.assertIn("limits.packets needs the packet plane", running.log(20))


if __name__ == "__main__":
    proxy.main()
