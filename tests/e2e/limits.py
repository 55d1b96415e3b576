#!/usr/bin/env python3
"""Who may pass: access lists and limits, at the door and, after a reload, for those already inside."""
import socket
import time
import unittest

import proxy
from peers import Datagrams, Echo
from proxy import address_of, eventually, free_port, service


class Limits(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        self.echo = self.keep(Echo())

    def test_connections(self):
        web = service(self.echo.port, limits={"connections": 3})
        running = self.start(web)
        inside = [self.connect(web) for _ in range(3)]
        for client in inside:
            self.assert_echo(client)
        for _ in range(4):
            self.assert_turned_away(web)
        self.assertEqual(4, running.metrics().sum("dropped_total", service="web", plane="stream", reason="connection_limit"))
        inside.pop().close()
        eventually(lambda: running.service()["active_connections"] == 2, "one has left")
        self.assert_echo(self.connect(web))
        for client in inside:
            self.assert_echo(client)

    def test_connections_per_source(self):
        web = service(self.echo.port, limits={"connections_per_source": 2})
        running = self.start(web)
        inside = [self.connect(web, source="127.0.0.5") for _ in range(2)]
        for client in inside:
            self.assert_echo(client)
        self.assert_turned_away(web, source="127.0.0.5")
        self.assert_echo(self.connect(web, source="127.0.0.6"))
        self.assertEqual(1, running.metrics().sum("dropped_total", service="web", reason="source_limit"))
        inside.pop().close()
        eventually(lambda: running.service()["active_connections"] == 2, "one has left")
        self.assert_echo(self.connect(web, source="127.0.0.5"))

    def test_new_connections_a_second(self):
        web = service(self.echo.port, limits={"new_connections": "20/s"})
        running = self.start(web)
        passed, began = 0, time.monotonic()
        for _ in range(60):
            try:
                client = self.connect(web)
                client.sendall(b"x")
                passed += client.recv(1) == b"x"
            except ConnectionError:
                pass
        took = time.monotonic() - began
        self.assertGreaterEqual(passed, 2, "the burst of 100 ms worth passes")
        self.assertLessEqual(passed, 2 + 20 * took + 2)
        self.assertEqual(60 - passed, running.metrics().sum("dropped_total", service="web", reason="rate_limit"))
        time.sleep(0.2)
        self.assert_echo(self.connect(web))

    def test_a_reload_changes_limits_of_the_running_process(self):
        web = service(self.echo.port, limits={"connections": 1})
        running = self.start(web)
        first = self.connect(web)
        self.assert_echo(first)
        self.assert_turned_away(web)
        web["limits"] = {"connections": 2}
        running.reload([web])
        second = self.connect(web)
        self.assert_echo(second)
        self.assert_turned_away(web)
        web["limits"] = {"connections": 1}
        running.reload([web])
        for client in (first, second):  # a lower limit turns away new ones and ends nobody
            self.assert_echo(client)
        self.assert_turned_away(web)
        del web["limits"]
        running.reload([web])
        self.assert_echo(self.connect(web))


class Access(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        self.echo = self.keep(Echo())

    def test_allow_and_deny(self):
        web = service(self.echo.port, access={"allow": ["127.0.0.0/29"], "deny": ["127.0.0.3/32"]})
        running = self.start(web)
        self.assert_echo(self.connect(web, source="127.0.0.2"))
        self.assert_turned_away(web, source="127.0.0.3")
        self.assert_turned_away(web, source="127.0.0.9")
        self.assertEqual(2, running.metrics().sum("dropped_total", service="web", plane="stream", reason="access_denied"))
        self.assertEqual(1, self.echo.accepted, "a denied client never reaches an endpoint")

    def test_ipv6(self):
        port, other = free_port(), free_port()
        open_one = service(self.echo.port, name="open", listen=f"[::1]:{port}", access={"allow": ["::1/128"], "deny": []})
        shut = service(self.echo.port, name="shut", listen=f"[::1]:{other}", access={"deny": ["::/8"]})
        running = self.start(open_one, shut)
        self.assert_echo(self.connect(open_one))
        self.assert_turned_away(shut)
        self.assertEqual(1, running.metrics().sum("dropped_total", service="shut", reason="access_denied"))

    def test_a_client_denied_by_reload_is_ended_and_others_go_on(self):
        web = service(self.echo.port)
        running = self.start(web)
        denied, allowed = self.connect(web, source="127.0.0.3"), self.connect(web, source="127.0.0.2")
        self.assert_echo(denied)
        self.assert_echo(allowed)
        web["access"] = {"deny": ["127.0.0.3"]}
        running.reload([web])
        self.assert_closed(denied)
        self.assert_echo(allowed)
        running.wait_ended_with("access_denied")
        self.assert_turned_away(web, source="127.0.0.3")
        web["access"] = {"deny": []}
        running.reload([web])
        self.assert_echo(self.connect(web, source="127.0.0.3"))

    def test_datagrams(self):
        server = self.keep(Datagrams())
        dns = service(server.port, name="dns", protocol="udp", access={"deny": ["127.0.0.3"]})
        running = self.start(dns)

        def answered(source):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((source, 0))
                client.settimeout(0.5)
                client.sendto(b"ping", address_of(dns))
                try:
                    return client.recv(100) == b"ping"
                except TimeoutError:
                    return False
        self.assertTrue(answered("127.0.0.2"))
        self.assertFalse(answered("127.0.0.3"))
        self.assertEqual(1, running.metrics().sum("dropped_total", service="dns", reason="access_denied"))


class Idle(proxy.ProxyTest):
    def test_a_reload_shortens_the_idle_timeout_of_established_connections(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web)
        client = self.connect(web)
        self.assert_echo(client)
        web["idle_timeout"] = "400ms"
        running.reload([web])
        self.assert_closed(client, seconds=5)
        running.wait_ended_with("idle_timeout")


if __name__ == "__main__":
    proxy.main()
