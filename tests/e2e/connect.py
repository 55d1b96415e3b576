#!/usr/bin/env python3
"""Endpoints that misbehave: what the client sees is another endpoint, or a quick end with a reason in the metrics."""
import socket
import time
import unittest

import proxy
from peers import Behaving, BlackHole, Echo, Named, reset
from proxy import address_of, eventually, free_port, receive_all, service


class Refusing(proxy.ProxyTest):
    def test_the_next_endpoint_is_tried_unseen(self):
        good = self.keep(Named("good"))
        web = service(free_port(), good.port)
        running = self.start(web)
        for _ in range(30):
            client = self.connect(web)
            self.assertEqual(b"good\n", proxy.receive_exactly(client, 5))
            client.close()
        self.assertEqual(0, running.ended_with("connect_refused"), "no client met the refusal")
        self.assertGreater(running.metrics().sum("failovers_total", service="web"), 0)
        states = {e["address"]: e["up"] for e in running.service()["endpoints"]}
        self.assertEqual([False, True], [states[e["address"]] for e in web["endpoints"]])

    def test_no_endpoint_left_ends_the_client_at_once(self):
        web = service(free_port(), free_port())
        running = self.start(web)
        began = time.monotonic()
        self.assert_turned_away(web)
        self.assertLess(time.monotonic() - began, 1.0)
        running.wait_ended_with("connect_refused")
        self.assertIn("connect_refused", running.log(None))
        for _ in range(5):  # three failures in a row make an endpoint count as down
            self.assert_turned_away(web)
        eventually(lambda: running.get("/readyz").status == 503, "/readyz tells that no endpoint is healthy")

    def test_an_endpoint_that_comes_back_is_used_again(self):
        port, other = free_port(), self.keep(Named("other"))
        web = service(port, other.port)
        running = self.start(web)
        for _ in range(4):
            self.assertEqual(b"other\n", proxy.receive_exactly(self.connect(web), 6))
        back = self.keep(Named("back", port=port))

        def reached():
            with socket.create_connection(address_of(web), timeout=5) as client:
                client.recv(16)
            return back.accepted > 0
        eventually(reached, "the endpoint that came back gets connections", seconds=20, every=0.05)
        eventually(lambda: all(e["up"] for e in running.service()["endpoints"]), "both are up")

    def test_the_only_endpoint_comes_back(self):
        port = free_port()
        web = service(port)
        self.start(web)
        self.assert_turned_away(web)
        self.keep(Echo(port=port))

        def echoes():
            with socket.create_connection(address_of(web), timeout=5) as client:
                try:
                    client.sendall(b"x")
                    return client.recv(1) == b"x"
                except ConnectionError:
                    return False
        eventually(echoes, "the service works again", seconds=3)


class Silent(proxy.ProxyTest):
    def test_a_black_hole_is_left_after_the_connect_timeout(self):
        hole, good = self.keep(BlackHole()), self.keep(Named("good"))
        web = service(hole.port, good.port, routing={"policy": "round_robin"})
        running = self.start(web, settings={"stream": {"connect_timeout": "300ms", "workers": 1}})
        worst = 0.0
        for _ in range(4):
            began = time.monotonic()
            self.assertEqual(b"good\n", proxy.receive_exactly(self.connect(web), 5))
            worst = max(worst, time.monotonic() - began)
        self.assertLess(worst, 1.5, "one attempt's timeout, then the next endpoint")
        self.assertEqual(0, running.ended_with("connect_timeout"))

    def test_only_black_holes_end_the_client_after_the_timeout(self):
        hole = self.keep(BlackHole())
        web = service(hole.port)
        running = self.start(web, settings={"stream": {"connect_timeout": "400ms"}})
        began = time.monotonic()
        self.assert_turned_away(web, seconds=5)
        took = time.monotonic() - began
        self.assertGreater(took, 0.3)
        self.assertLess(took, 2.0)
        running.wait_ended_with("connect_timeout")

    def test_what_the_client_sends_early_waits_for_the_endpoint(self):
        hole, good = self.keep(BlackHole()), self.keep(Echo())
        web = service(hole.port, good.port, routing={"policy": "round_robin"})
        self.start(web, settings={"stream": {"connect_timeout": "300ms", "workers": 1}})
        for _ in range(2):
            self.assert_echo(self.connect(web), b"sent before any endpoint was reached" * 100)

    def test_an_endpoint_that_accepts_and_hangs_ends_by_idle_timeout(self):
        def hang(connection):
            time.sleep(30)
        server = self.keep(Behaving(hang))
        web = service(server.port, idle_timeout="500ms")
        running = self.start(web)
        began = time.monotonic()
        client = self.connect(web)
        client.sendall(b"hello?")
        self.assert_closed(client, seconds=5)
        self.assertGreater(time.monotonic() - began, 0.4)
        running.wait_ended_with("idle_timeout")

    def test_bytes_in_either_direction_hold_off_the_idle_timeout(self):
        def trickle(connection):
            for _ in range(15):
                connection.sendall(b".")
                time.sleep(0.1)
        server = self.keep(Behaving(trickle))
        web = service(server.port, idle_timeout="600ms")
        self.start(web)
        self.assertEqual(b"." * 15, receive_all(self.connect(web)))

    def test_an_endpoint_that_sends_nothing_and_closes(self):
        server = self.keep(Behaving(lambda connection: None))
        web = service(server.port)
        running = self.start(web)
        client = self.connect(web)
        self.assertEqual(b"", receive_all(client))
        client.close()
        eventually(lambda: running.service()["active_connections"] == 0, "the connection is over")


class Resetting(proxy.ProxyTest):
    def test_a_reset_half_way_reaches_the_client_and_nobody_else(self):
        def break_off(connection):
            connection.sendall(b"x" * 100_000)
            time.sleep(0.2)
            reset(connection)
        server, echo = self.keep(Behaving(break_off)), self.keep(Echo())
        broken, healthy = service(server.port, name="broken"), service(echo.port, name="healthy")
        running = self.start(broken, healthy)
        steady = self.connect(healthy)
        for _ in range(10):
            client = self.connect(broken)
            got = b""
            try:
                while piece := client.recv(65536):
                    got += piece
            except ConnectionResetError:
                pass
            self.assertLessEqual(len(got), 100_000)
            self.assertEqual(len(got), got.count(b"x"))
            self.assert_echo(steady)
        running.wait_ended_with("endpoint_reset", 10, "broken")
        self.assertEqual(0, running.ended_with("endpoint_reset", "healthy"))
        eventually(lambda: running.service("broken")["active_connections"] == 0, "no connection is left over")

    def test_a_client_that_resets_frees_its_connection(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web)
        for _ in range(20):
            client = socket.create_connection(address_of(web))
            self.assert_echo(client)
            reset(client)
        running.wait_ended_with("client_reset", 20)
        eventually(lambda: running.service()["active_connections"] == 0, "no connection is left over")
        eventually(lambda: not echo.connections, "the endpoint's side is closed too")

    def test_descriptors_are_given_back(self):
        echo = self.keep(Echo())
        web = service(free_port(), echo.port)
        running = self.start(web)
        self.assert_echo(self.connect(web))
        before = running.descriptors()
        for number in range(200):
            client = socket.create_connection(address_of(web))
            client.sendall(b"x")
            if number % 3 == 0:
                reset(client)
            else:
                client.close()
        eventually(lambda: running.service()["active_connections"] == 1, "all but one are over")
        eventually(lambda: running.descriptors() <= before + 8, lambda: f"{running.descriptors()} against {before}")


class Names(proxy.ProxyTest):
    def test_a_name_as_endpoint(self):
        echo = self.keep(Echo())
        web = service({"address": f"localhost:{echo.port}"})
        self.start(web)
        self.assert_echo(self.connect(web))

    def test_a_name_that_does_not_exist_ends_the_client_with_a_reason(self):
        web = service({"address": "no-such-host.invalid:80"})
        running = self.start(web, wait="/healthz")
        self.assert_turned_away(web, seconds=10)
        running.wait_ended_with("no_endpoint")
        self.assertIn("no-such-host.invalid", running.log(None))


if __name__ == "__main__":
    proxy.main()
